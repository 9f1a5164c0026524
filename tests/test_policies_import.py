"""Policies of DOPE and of Stable-Baselines3: they act as those libraries' own code does; bad files are refused."""

import base64
import json
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from torch_fixtures import Made, torch_file

from trajworld.errors import TrajWorldError
from trajworld.policies.files import read_policy

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
    "lists of different lengths": (dope(**{"fc1/weight": [[1.0], [1.0, 2.0]]}), "inhomogeneous"),
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


@pytest.mark.parametrize(
    ("name", "normalised"), [*((name, False) for name in AGENTS), ("A2C", True), ("SAC", True)]
)
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
    # Both in 32 bits: processors sum in other orders.
    np.testing.assert_allclose(policy.act(OBSERVATIONS), expected, atol=5e-5)
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


def serialized(what: Any) -> dict[str, str]:
    data = what if isinstance(what, bytes) else pickle.dumps(what)
    return {":serialized:": base64.b64encode(data).decode()}


def policy_class(name: str) -> bytes:
    return f"cstable_baselines3.common.policies\n{name}\n.".encode()


def weights() -> dict[str, np.ndarray]:
    """Those of an A2C agent, with a layer that versions before 1.8 let the critic share."""
    state = {"log_std": np.float32([-1, 0.5]), "value_net.bias": np.zeros(1, "f4")}
    sizes = {"mlp_extractor.shared_net.0": (6, 3), "mlp_extractor.policy_net.0": (4, 6), "action_net": (2, 4)}
    for name, shape in sizes.items():
        state[f"{name}.weight"] = RNG.normal(size=shape).astype("f4")
        state[f"{name}.bias"] = RNG.normal(size=shape[0]).astype("f4")
    return state


def agent_file(path: Path, state: Any = None) -> Path:
    """A zip as Stable-Baselines3 writes it, made without it and without PyTorch."""
    data = {
        "policy_class": serialized(policy_class("ActorCriticPolicy")),
        "observation_space": serialized(World.observation_space),
        "action_space": serialized(World.action_space),
        **{"policy_kwargs": {}, "use_sde": False, "num_timesteps": 7},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(data))
        archive.writestr("policy.pth", torch_file(weights() if state is None else state))
    return path


@pytest.mark.once
def test_an_agent_of_an_old_version_without_its_libraries(tmp_path: Path) -> None:
    state = weights()
    policy = read_policy(agent_file(tmp_path / "agent.zip", state))
    assert (policy.sizes, policy.activation, policy.squash) == ((3, 6, 4, 2), "tanh", False)
    noise = np.random.default_rng(4).standard_normal((50, 2), np.float32)
    x = OBSERVATIONS.T
    for name in ("mlp_extractor.shared_net.0", "mlp_extractor.policy_net.0"):
        x = np.tanh(state[f"{name}.weight"] @ x + state[f"{name}.bias"][:, None])
    mean = (state["action_net.weight"] @ x).T + state["action_net.bias"]
    np.testing.assert_allclose(policy.act(OBSERVATIONS), np.clip(mean, LOW, HIGH), atol=1e-5)
    expected = np.clip(mean + np.exp(state["log_std"]) * noise, LOW, HIGH)
    np.testing.assert_allclose(policy.act(OBSERVATIONS, np.random.default_rng(4)), expected, atol=1e-5)


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
    return lambda data: json.dumps({**json.loads(data), entry: serialized(what)}).encode()


def holding(name: str, what: Any) -> Any:
    """A change of the zip's weights: one of them another, or one more."""
    return lambda data: torch_file({**weights(), name: what})


class Evil:
    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


DISCRETE, PICTURE = gymnasium.spaces.Discrete(3), gymnasium.spaces.Box(0, 1, (4, 4))
BAD_ZIPS: dict[str, Any] = {
    "a CNN": ("data", pickled("policy_class", policy_class("ActorCriticCnnPolicy")), "ActorCriticCnnPolicy"),
    "a class that runs": ("data", pickled("policy_class", Evil()), "'system'"),
    "a space that runs": ("data", pickled("action_space", Evil()), "refused: it names"),
    "discrete actions": ("data", pickled("action_space", DISCRETE), "plain boxes.*Discrete"),
    "pictures": ("data", pickled("observation_space", PICTURE), "plain boxes"),
    "no JSON": ("data", lambda data: data[:-9], "damaged"),
    "other JSON": ("data", lambda data: b"[1]", "damaged"),
    "no weights": ("policy.pth", lambda data: None, "no zip of Stable-Baselines3"),
    "weights cut": ("policy.pth", lambda data: data[:500], r"policy\.pth is not a readable PyTorch file"),
    "weights that run": (
        "policy.pth",
        holding("a", Made("os system", ("touch ran",))),
        r"names 'os\.system'",
    ),
    "weights of no tensors": ("policy.pth", lambda data: torch_file([1]), "damaged"),
    "text for weights": ("policy.pth", holding("action_net.weight", "text"), "damaged"),
    "NaN": ("policy.pth", holding("action_net.bias", np.full(2, np.nan, "f4")), "NaN"),
    "no layers": ("policy.pth", lambda data: torch_file({"log_std": np.zeros(2)}), "damaged|no layers"),
    "a layer of its own": (
        "policy.pth",
        holding("features_extractor.cnn.weight", np.ones(2)),
        "features extractor",
    ),
    "wrong shapes": ("policy.pth", holding("action_net.weight", np.ones((2, 3))), "mean actions"),
}


@pytest.mark.once
@pytest.mark.parametrize("case", BAD_ZIPS)
def test_bad_zips_are_refused_and_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    monkeypatch.chdir(tmp_path)
    member, change, said = BAD_ZIPS[case]
    rewritten(agent_file(tmp_path / "agent.zip"), member, change)
    refused(tmp_path / "agent.zip", said)
    assert os.listdir(tmp_path) == ["agent.zip"]


@pytest.mark.once
def test_other_zips_cut_zips_and_other_statistics(tmp_path: Path) -> None:
    path = tmp_path / "agent.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(path, "no policy")
    whole = agent_file(path).read_bytes()
    written(tmp_path / "vecnormalize.pkl", {"mean": 0})
    refused(path, r"vecnormalize\.pkl holds no VecNormalize")
    (tmp_path / "vecnormalize.pkl").unlink()
    for length in range(0, len(whole), 199):
        path.write_bytes(whole[:length])
        refused(path, "agent.zip")


@pytest.mark.once
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
        policy = read_policy(path, environment="Hopper-v5")
        assert (policy.sizes, policy.activation, policy.squash) == ((11, 64, 64, 3), "tanh", False)
        assert (policy.observation_clip, policy.environment) == (10, "gymnasium/Hopper-v5")
        np.testing.assert_allclose(policy.observation_mean[:2], [1.3379663, 0.05282011])
