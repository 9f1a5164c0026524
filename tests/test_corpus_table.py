"""The table of a corpus: what ships is true of the real environments, and mistakes in another are named."""

import itertools
import json
import math
import re

import gymnasium
import mujoco
import numpy as np
import pytest

from trajworld.collect.corpus_table import (
    FIRST_EDITION,
    PRETRAIN,
    ROLES,
    UNSEEN,
    read_table,
    select,
    source_of,
)
from trajworld.environments.open import open_environment
from trajworld.environments.robots.kinds import draw_robot, parse_robot
from trajworld.errors import TrajWorldError, UsageError

pytestmark = pytest.mark.once

HEAD = "environment, source, M, role, weight, size, behaviour, search, variants\n"
LINE = "gymnasium/Pendulum-v1?g=4.0, classic, 5, pre-train, 1, 1, varied, 30,\n"

# Everything in the suites that is a hopper, a walker or a cheetah, and what the library calls by these names.
EMBODIMENTS = re.compile(r"hopper|walker|cheetah|bipedal", re.IGNORECASE)

# How far a robot is from every test embodiment: on average, each of its numbers is another by a factor of e^0.35 = 1.4.
MARGIN = 0.35


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


def test_both_editions_are_there_and_the_second_adds_what_is_fast():
    first, second = ({row.environment: row for row in read_table(name)} for name in (FIRST_EDITION, None))
    assert (len(first), len(second)) == (183, 232)
    added = [row for name, row in second.items() if first.get(name) != row]
    assert {row.behaviour for row in added} == {"running"}
    assert {row.source for name, row in second.items() if name not in first} == {"runner"}
    assert first.keys() - second.keys() == {"robot/legged-53", "robot/legged-66"}
    assert all(row.role == first[name].role for name, row in second.items() if name in first)
    trained = select(list(second.values()), role=PRETRAIN)
    fast = sum(row.weight for row in trained if row.behaviour == "running")
    assert 0.3 < fast / sum(row.weight for row in trained) < 0.4


@pytest.mark.slow
def test_every_line_is_true_of_its_environment():
    pytest.importorskip("dm_control")
    rows = read_table()
    # Of the robots, which are drawn by the same few rules, every fourth.
    drawn = [row for row in rows if row.environment.startswith("robot/")]
    for row in [row for row in rows if row not in drawn] + drawn[::4]:
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


@pytest.mark.slow
def test_no_robot_is_a_test_embodiment_under_another_name():
    bodies = []
    for name in ("Hopper-v5", "Walker2d-v5", "HalfCheetah-v5"):
        simulator = gymnasium.make(name).unwrapped
        bodies.append(morphology(simulator.model, simulator.frame_skip))
    # An embodiment whose legs come in another order is found out; another embodiment is none.
    turned = [(shape, legs[::-1]) for shape, legs in bodies]
    assert [distance(one, other) for one, other in zip(bodies, turned, strict=True)] == [0, 0, 0]
    assert distance(bodies[1], bodies[2]) > 1
    compared = 0
    for row in select(read_table(), ["legged", "runner"]):
        robot = draw_robot(*parse_robot(row.environment.removeprefix("robot/")))
        own = morphology(mujoco.MjModel.from_xml_string(robot.xml), robot.frame_skip)
        near = min(distance(own, body) for body in bodies)
        compared += near < math.inf
        assert near > MARGIN, f"{row.environment} is an embodiment but for {near:.2f}"
    assert compared > 60


def morphology(model, frame_skip):
    """Numbers without a unit: of the whole, and of each link of each leg ``[links, 6]``, from the hip."""
    root = 1
    gravity, mass = -model.opt.gravity[2], model.body_subtreemass[root]
    chains = []
    for hip in np.flatnonzero(model.body_parentid == root):
        chain = [hip]
        while len(below := np.flatnonzero(model.body_parentid == chain[-1])):
            chain += list(below)
        chains.append(chain)
    length = {body: 2 * model.geom_size[model.body_geomadr[body], 1] for body in range(1, model.nbody)}
    leg = max(sum(length[body] for body in chain) for chain in chains)
    seconds = model.opt.timestep * frame_skip * math.sqrt(gravity / leg)
    legs = []
    for chain in chains:
        links = []
        for body in chain:
            joint = model.body_jntadr[body]
            gear = model.actuator_gear[np.flatnonzero(model.actuator_trnid[:, 0] == joint)[0], 0]
            dof = model.jnt_dofadr[joint]
            links.append(
                [
                    length[body] / leg,
                    model.body_mass[body] / mass,
                    gear / (mass * gravity * leg),
                    model.dof_armature[dof] / (mass * leg**2),
                    model.dof_damping[dof] / gear * math.sqrt(gravity / leg),
                    np.ptp(model.jnt_range[joint]),
                ]
            )
        legs.append(np.array(links))
    return np.array([length[root] / leg, model.body_mass[root] / mass, seconds]), legs


def distance(one, other):
    """The mean of |log ratio| of all numbers, in the order of legs that makes it least; infinite for other legs."""
    nearest = math.inf
    for legs in itertools.permutations(other[1]):
        if [len(leg) for leg in one[1]] == [len(leg) for leg in legs]:
            own, others = (
                np.concatenate([shape, *map(np.ravel, parts)]) for shape, parts in (one, (other[0], legs))
            )
            nearest = min(nearest, float(np.abs(np.log(own / others)).mean()))
    return nearest
