"""Policies of DOPE and of Stable-Baselines3: they act as those libraries' own code does; bad files are refused."""

import base64
import io
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

from trajworld.errors import TrajWorldError
from trajworld.policies.files import read_policy
from trajworld.policies.sb3 import make_policy

RNG = np.random.default_rng(0)
LOW, HIGH = np.float32([-2, 0]), np.float32([1, 3])
OBSERVATIONS = np.float32(RNG.normal(size=(50, 3)) * 2)


def dope(**changes: Any) -> dict[str, Any]:
    sizes = {"fc0": (8, 3), "fc1": (7, 8), "last_fc": (2, 7), "last_fc_log_std": (2, 7)}
    arrays = {}
    for name, (out, into) in sizes.items():
        arrays[f"{name}/weight"] = RNG.normal(size=(out, into)).astype("f4")
        arrays[f"{name}/bias"] = RNG.normal(size=out).astype("f4")
    content = {**arrays, "nonlinearity": "tanh", "output_distribution": "tanh_gaussian", **changes}
    return {name: value for name, value in content.items() if value is not None}


def written(path: Path, content: Any) -> Path:
    path.write_bytes(pickle.dumps(content, 4))
    return path


@pytest.mark.once
@pytest.mark.parametrize("squashed", [True, False])
def test_dope_policies_act_as_the_benchmark_defines(tmp_path: Path, squashed: bool) -> None:
    content = dope(output_distribution="tanh_gaussian" if squashed else "gaussian")
    policy = read_policy(written(tmp_path / "walker_online_3.pkl", content))
    assert (policy.environment, policy.source) == ("gymnasium/Walker2d-v5", "DOPE walker_online_3.pkl")
    noise = np.random.default_rng(4).standard_normal((50, 2), np.float32)
    for observation, draw, found in zip(
        OBSERVATIONS, noise, policy.act(OBSERVATIONS, np.random.default_rng(4)), strict=True
    ):
        x = np.tanh(content["fc0/weight"] @ observation + content["fc0/bias"])
        x = np.tanh(content["fc1/weight"] @ x + content["fc1/bias"])
        std = np.exp(content["last_fc_log_std/weight"] @ x + content["last_fc_log_std/bias"])
        action = content["last_fc/weight"] @ x + content["last_fc/bias"] + std * draw
        np.testing.assert_allclose(found, np.tanh(action) if squashed else np.clip(action, -1, 1), atol=1e-5)


BAD_DOPE = {
    "wrong shapes": (dope(**{"fc1/weight": np.zeros((7, 9), "f4")}), r"hidden layer 1: .*\(9, 7\)"),
    "NaN": (dope(**{"fc0/bias": np.full(8, np.nan, "f4")}), "NaN"),
    "no last layer": (dope(**{"last_fc/weight": None}), "lacks last_fc/weight"),
    "a bias missing": (dope(**{"fc1/bias": None}), "hidden layer 1"),
    "no number": (dope(**{"fc1/weight": "text"}), "hidden layer 1"),
    "another distribution": (dope(output_distribution="beta"), "no output_distribution"),
    "another nonlinearity": (dope(nonlinearity="maxout"), "'maxout'"),
    "a list": ([1, 2], "no policy of DOPE"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", BAD_DOPE)
def test_bad_dope_pickles(tmp_path: Path, case: str) -> None:
    content, said = BAD_DOPE[case]
    refused(written(tmp_path / "hopper_online_0.pkl", content), said)


def refused(path: Path, said: str) -> None:
    with pytest.raises(TrajWorldError, match=said) as error:
        read_policy(path)
    assert path.name in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.once
def test_cut_pickles_missing_files_and_folders(tmp_path: Path) -> None:
    path = written(tmp_path / "hopper_online_0.pkl", dope())
    whole = path.read_bytes()
    for length in range(0, len(whole), 41):
        path.write_bytes(whole[:length])
        refused(path, "hopper_online")
    refused(tmp_path / "nothing.pkl", "No such file")
    refused(tmp_path, "not a file")


class World(gymnasium.Env):
    observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
    action_space: Any = gymnasium.spaces.Box(LOW, HIGH)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.ones(3, np.float32), 0.0, False, False, {}


AGENTS = {
    "A2C": {},
    "PPO": {"net_arch": {"pi": [8], "vf": [5, 4]}, "activation_fn": "ELU", "share_features_extractor": False},
    "PPO gSDE": {"squash_output": True},
    "TRPO": {"activation_fn": "SiLU", "log_std_init": -1.0},
    "ARS": {"net_arch": [6], "activation_fn": "LeakyReLU"},
    "ARS linear": {},
    "ARS clipped": {"squash_output": False, "with_bias": False},
    "SAC": {"net_arch": [9, 7]},
    "SAC gSDE": {"clip_mean": 0.3},
    "TQC": {"net_arch": [8], "activation_fn": "Sigmoid"},
    "TQC gSDE": {},
    "TD3": {"net_arch": {"pi": [8, 8], "qf": [4]}, "activation_fn": "Tanh"},
    "DDPG": {"net_arch": []},
}


def agent(name: str, normalised: bool = False) -> Any:
    """An agent with random weights that its file tells apart from those it began with."""
    sb3 = pytest.importorskip("stable_baselines3")
    contrib = pytest.importorskip("sb3_contrib")
    import torch
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    kind, *rest = name.split()
    arguments = dict(AGENTS[name])
    if "activation_fn" in arguments:
        arguments["activation_fn"] = getattr(torch.nn, arguments["activation_fn"])
    env: Any = DummyVecEnv([World])
    if normalised:
        env = VecNormalize(env, clip_obs=1.5)
        env.obs_rms.mean, env.obs_rms.var = np.array([0.5, -1, 0]), np.array([0.1, 2, 3])
    policy = "LinearPolicy" if rest == ["linear"] else "MlpPolicy"
    options = {"use_sde": True} if rest == ["gSDE"] else {}
    made = getattr(sb3, kind, None) or getattr(contrib, kind)
    made = made(policy, env, policy_kwargs=arguments, seed=1, device="cpu", **options)
    with torch.no_grad():
        for parameter in made.policy.parameters():
            parameter.add_(0.4 * torch.randn_like(parameter))
    return made


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("name", AGENTS)
def test_agents_act_as_stable_baselines3_predicts(tmp_path: Path, name: str, normalised: bool) -> None:
    torch = pytest.importorskip("torch")
    made = agent(name, normalised)
    made.save(tmp_path / "agent.zip")
    observations = OBSERVATIONS
    if normalised:
        made.get_vec_normalize_env().save(str(tmp_path / "vecnormalize.pkl"))
        observations = made.get_vec_normalize_env().normalize_obs(OBSERVATIONS)
    policy = read_policy(tmp_path / "agent.zip")
    expected = made.predict(observations, deterministic=True)[0]
    np.testing.assert_allclose(policy.act(OBSERVATIONS), expected, atol=1e-5)
    assert np.ptp(expected, axis=0).min() > 0.1
    assert (policy.log_std is not None) == (name in ("A2C", "PPO", "TRPO", "SAC", "TQC"))
    if policy.log_std is None:
        return
    with torch.no_grad():
        seen = torch.as_tensor(np.float32(observations))
        if policy.squash:
            mean, log_std, _ = made.actor.get_action_dist_params(seen)
        else:
            gaussian = made.policy.get_distribution(seen).distribution
            mean, log_std = gaussian.mean, gaussian.stddev.log()
        drawn = mean + log_std.exp() * np.random.default_rng(3).standard_normal((50, 2), np.float32)
    expected = (
        made.policy.unscale_action(np.tanh(drawn.numpy()))
        if policy.squash
        else drawn.clip(*map(torch.tensor, (LOW, HIGH)))
    )
    np.testing.assert_allclose(policy.act(OBSERVATIONS, np.random.default_rng(3)), expected, atol=1e-5)


def test_layers_that_old_versions_shared() -> None:
    state = {"log_std": np.zeros(2)}
    for name, out, into in (
        ("mlp_extractor.shared_net.0", 6, 3),
        ("mlp_extractor.policy_net.0", 4, 6),
        ("action_net", 2, 4),
    ):
        state |= {f"{name}.weight": RNG.normal(size=(out, into)), f"{name}.bias": RNG.normal(size=out)}
    policy = make_policy("ActorCriticPolicy", state, low=LOW, high=HIGH, arguments={})
    x = OBSERVATIONS[0]
    for name in ("mlp_extractor.shared_net.0", "mlp_extractor.policy_net.0"):
        x = np.tanh(state[f"{name}.weight"] @ x + state[f"{name}.bias"])
    action = state["action_net.weight"] @ x + state["action_net.bias"]
    np.testing.assert_allclose(policy.act(OBSERVATIONS[:1])[0], np.clip(action, LOW, HIGH), atol=1e-5)


def rewritten(path: Path, name: str, change: Any) -> None:
    """The zip with one member changed; None removes it."""
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    members[name] = change(members[name])
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in members.items():
            if data is not None:
                archive.writestr(member, data)


def pickled(entry: str, what: Any) -> Any:
    """A change of the zip's data: another object in place of one."""

    def change(data: bytes) -> bytes:
        content = json.loads(data)
        content[entry] = {":serialized:": base64.b64encode(pickle.dumps(what)).decode()}
        return json.dumps(content).encode()

    return change


def weights(change: Any) -> Any:
    import torch

    def apply(data: bytes) -> bytes:
        file = io.BytesIO()
        torch.save(change(torch.load(io.BytesIO(data), weights_only=True)), file)
        return file.getvalue()

    return apply


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def evil(state: Any) -> dict[str, Any]:
    return {"weight": Evil()}


def classes() -> Any:
    from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
    from stable_baselines3.common.policies import ActorCriticCnnPolicy

    return ActorCriticCnnPolicy, RecurrentActorCriticPolicy


DISCRETE, PICTURE = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(0, 1, (4, 4))
BAD_ZIPS: dict[str, Any] = {
    "a CNN": ("data", lambda: pickled("policy_class", classes()[0]), "ActorCriticCnnPolicy"),
    "recurrent": ("data", lambda: pickled("policy_class", classes()[1]), "RecurrentActorCriticPolicy"),
    "a class that runs": ("data", lambda: pickled("policy_class", Evil()), "'system'"),
    "a space that runs": ("data", lambda: pickled("action_space", Evil()), "refused: it names"),
    "discrete actions": ("data", lambda: pickled("action_space", DISCRETE), "plain boxes.*Discrete"),
    "pictures": ("data", lambda: pickled("observation_space", PICTURE), "plain boxes"),
    "no JSON": ("data", lambda: lambda data: data[:-9], "damaged"),
    "other JSON": ("data", lambda: lambda data: b"[1]", "damaged"),
    "no weights": ("policy.pth", lambda: lambda data: None, "no zip of Stable-Baselines3"),
    "weights cut": ("policy.pth", lambda: lambda data: data[:500], "policy.pth holds no arrays"),
    "weights that run": ("policy.pth", lambda: weights(evil), "policy.pth holds no arrays"),
    "NaN": (
        "policy.pth",
        lambda: weights(lambda state: {**state, "action_net.bias": state["action_net.bias"] * np.nan}),
        "NaN",
    ),
    "no layers": (
        "policy.pth",
        lambda: weights(lambda state: {"log_std": state["log_std"]}),
        "damaged|no layers",
    ),
    "a layer of its own": (
        "policy.pth",
        lambda: weights(lambda state: {**state, "features_extractor.cnn.0.weight": state["log_std"]}),
        "features extractor",
    ),
    "wrong shapes": (
        "policy.pth",
        lambda: weights(lambda state: {**state, "action_net.weight": state["action_net.weight"][:, 1:]}),
        "mean actions",
    ),
}


@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips_are_refused_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    agent("A2C").save(tmp_path / "agent.zip")
    member, change, said = BAD_ZIPS[case]
    rewritten(tmp_path / "agent.zip", member, change())
    refused(tmp_path / "agent.zip", said)
    assert os.listdir(tmp_path) == ["agent.zip"]


def test_other_zips_cut_zips_and_other_statistics(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "no policy")
    agent("A2C").save(path)
    whole = path.read_bytes()
    written(tmp_path / "vecnormalize.pkl", {"mean": 0})
    refused(path, r"vecnormalize\.pkl holds no VecNormalize")
    (tmp_path / "vecnormalize.pkl").unlink()
    for length in range(0, len(whole), 2999):
        path.write_bytes(whole[:length])
        refused(path, "agent.zip")


def test_the_real_files(shared: Path) -> None:
    for name, sizes in (
        ("hopper", (11, 256, 256, 3)),
        ("walker", (17, 256, 256, 6)),
        ("halfcheetah", (17, 256, 256, 6)),
    ):
        path = shared / "dope" / "policies" / f"{name}_online_5.pkl"
        if not path.exists():
            pytest.skip("no policies of DOPE")
        policy = read_policy(path)
        assert (policy.sizes, policy.activation, policy.squash) == (sizes, "relu", True)
    path = shared / "agents" / "trpo-Hopper-v3" / "Hopper-v3.zip"
    if path.exists():
        pytest.importorskip("torch")
        policy = read_policy(path, environment="Hopper-v5")
        assert (policy.sizes, policy.activation, policy.squash) == ((11, 64, 64, 3), "tanh", False)
        assert (policy.observation_clip, policy.environment) == (10, "gymnasium/Hopper-v5")
        np.testing.assert_allclose(policy.observation_mean[:2], [1.3379663, 0.05282011])
