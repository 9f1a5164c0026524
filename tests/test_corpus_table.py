"""The table of a corpus: what ships is true of the real environments, and mistakes in another are named."""

import json
import re

import gymnasium
import mujoco
import numpy as np
import pytest

from trajworld.collect.corpus_table import ROLES, UNSEEN, read_table, select, source_of
from trajworld.environments.open import open_environment
from trajworld.environments.robots.kinds import draw_robot
from trajworld.errors import TrajWorldError, UsageError

pytestmark = pytest.mark.once

HEAD = "environment, source, M, role, weight, size, behaviour, search, variants\n"
LINE = "gymnasium/Pendulum-v1?g=4.0, classic, 5, pre-train, 1, 1, varied, 30,\n"

# Everything in the suites that is a hopper, a walker or a cheetah, and what the library calls by these names.
EMBODIMENTS = re.compile(r"hopper|walker|cheetah|bipedal", re.IGNORECASE)


def test_what_is_held_out_is_trained_on_in_no_suite_and_under_no_other_name():
    trained, unseen = ({row.environment for row in read_table() if row.role == role} for role in ROLES)
    assert not [name for name in trained if EMBODIMENTS.search(name)]
    assert {"gymnasium/Hopper-v5", "gymnasium/Walker2d-v5", "gymnasium/HalfCheetah-v5"} <= unseen
    # Nothing of the cart with three poles, whatever its physics.
    assert not any("three_poles" in name for name in trained)
    assert "dm_control/cartpole-three_poles" in unseen
    gravity = re.compile(r"gymnasium/Pendulum-v1\?g=([\d.]+)$")
    seen, held = (
        {float(found[1]) for name in names if (found := gravity.match(name))} for names in (trained, unseen)
    )
    assert len(seen) >= 3
    assert not seen & held
    assert min(held) < min(seen) < max(seen) < max(held)
    assert len([name for name in unseen if name.startswith("robot/")]) >= 8


@pytest.mark.slow
def test_every_line_is_true_of_its_environment():
    pytest.importorskip("dm_control")
    for row in read_table():
        sizes = set()
        for name in row.environments:
            environment = open_environment(name)
            description = environment.description
            sizes.add(description.observation_size + 1 + description.action_size)
            environment.close()
        assert sizes == {row.num_variates}, row.environment
        assert description.name in row.environments


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("# nothing\n\n", "its first line must name the columns environment, source, M"),
        (HEAD, "names no environment"),
        (HEAD + "Pendulum-v1, classic, 5\n", "line 2: 3 values for the 9 columns"),
        ("# a comment\n" + HEAD + "\n" + LINE.replace(" 5,", " x,"), "line 4: M must be a whole number"),
        (HEAD + LINE.replace("pre-train", "test"), "the role is one of pre-train, unseen, not 'test'"),
        (HEAD + LINE.replace("1, 1", "0, 1"), "weight must be a number above 0"),
        (HEAD + LINE.replace("1, 1", "1, nan"), "size must be a number above 0"),
        (HEAD + LINE.replace("30,", "-1,"), "search must be a number of at least 0"),
        (HEAD + LINE.replace("varied", "brownian"), "the behaviour is one of uniform"),
        (HEAD + LINE.replace("g=4.0", "g"), "is not key=value"),
        (HEAD + LINE.replace("30,", "30, g=1"), "sets g twice"),
        (HEAD + LINE.replace("classic", ""), "needs a source"),
        (HEAD + LINE + LINE.replace("gymnasium/", ""), "line 3: gymnasium/Pendulum-v1?g=4.0 is there twice"),
        ("\xff", "cannot read the table"),
    ],
)
def test_mistakes_are_named_with_their_line(tmp_path, text, message):
    path = tmp_path / "table.csv"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(TrajWorldError, match=re.escape(message)):
        read_table(path)


def test_variants_are_changes_of_the_environment_itself(tmp_path):
    robot = "robot/legged-3, legged, 15, pre-train, 1, 1, varied, 0, gravity=5 gravity=7&mass=2\n"
    (tmp_path / "table.csv").write_text(HEAD + LINE + robot)
    assert [row.environments for row in read_table(tmp_path / "table.csv")] == [
        ("gymnasium/Pendulum-v1?g=4.0",),
        ("robot/legged-3", "robot/legged-3?gravity=5.0", "robot/legged-3?gravity=7.0&mass=2.0"),
    ]


def test_rows_are_selected_by_pattern_and_role():
    rows = read_table()
    assert select(rows, ["robot/*"], UNSEEN) == [
        row for row in rows if row.role == UNSEEN and row.environment.startswith("robot/")
    ]
    assert select(rows, ["snake", "dm_control/finger*"]) == [
        row for row in rows if row.source == "snake" or row.environment.startswith("dm_control/finger")
    ]
    assert select(rows) == rows
    with pytest.raises(UsageError, match="'robot/legged-0' fits no unseen environment"):
        select(rows, ["snake", "robot/legged-0"], UNSEEN)


def test_the_command_lists_the_table(command):
    _, printed, _ = command("data", "collect-corpus", "--list")
    assert all(row.environment in printed for row in read_table()), "names are folded where nothing is narrow"
    options = ("--list", "--json", "--role", "unseen", "--name", "mine")
    listed = json.loads(command("data", "collect-corpus", *options)[1])
    unseen = select(read_table(), role=UNSEEN)
    assert [entry["environment"] for entry in listed] == [row.environment for row in unseen]
    assert all(entry["dataset"].startswith("mine/unseen/") for entry in listed)


def test_an_environment_has_the_source_of_the_table_or_of_its_name():
    assert [source_of(name) for name in ("robot/legged-3", "else/x", "")] == ["legged", "else", "(not named)"]


def proportions(model):
    """Lengths and radii of a model's capsules, largest length 1, in order of size."""
    capsules = model.geom_size[model.geom_type == mujoco.mjtGeom.mjGEOM_CAPSULE][:, :2]
    return np.sort((capsules / capsules[:, 1].max()).ravel())


@pytest.mark.slow
def test_no_robot_has_the_proportions_of_a_test_embodiment():
    names = ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5")
    bodies = [proportions(gymnasium.make(name).unwrapped.model) for name in names]
    compared = 0
    for row in select(read_table(), ["legged"]):
        robot = draw_robot("legged", int(row.environment.split("-")[1]))
        own = proportions(mujoco.MjModel.from_xml_string(robot.xml))
        for body in bodies:
            if len(own) == len(body):
                compared += 1
                assert np.abs(own - body).max() > 0.05, f"{row.environment} is an embodiment at another scale"
    assert compared > 20
