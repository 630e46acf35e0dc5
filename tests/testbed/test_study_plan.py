"""Plans: what they come to, and that every mistake is named."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import tomli_w

from broker.errors import SettingsError
from broker.settings import from_assignments
from splitcom.errors import ConfigError
from testbed.scenario import read
from testbed.study.plan import Plan, load
from testbed.study.recipe import digest, flat, nested, recipe, same

THRESHOLD = "streams.activation_up.threshold"


def plan(directory: Path, **changes: Any) -> Plan:
    """A plan with two seeds and two methods, but for the tables that are changed."""
    table: dict[str, Any] = {
        "study": {"name": "small", "scenarios": ["demo"]},
        "axes": {"seed": [0, 1]},
        "runs": [{"name": "base", "scenarios": ["splitlora"]}, {"name": "gated", "scenarios": ["splitcom"]}],
    }
    file = directory / "plan.toml"
    file.write_text(tomli_w.dumps({name: value for name, value in (table | changes).items() if value is not None}))
    return load(file)


def places(found: Plan) -> list[tuple[str, ...]]:
    return [(run.method, *run.place.values()) for run in found.runs]


def test_every_axis_multiplies_the_runs_and_the_first_one_changes_last(tmp_path: Path) -> None:
    axes = {"seed": [0, 1], "shape": {"standard": {}, "u": {"scenarios": ["u-shape"]}}}
    found = plan(tmp_path, axes=axes)
    assert [(run.place["seed"], run.place["shape"], run.method) for run in found.runs] == [
        (seed, shape, method) for seed in "01" for shape in ("standard", "u") for method in ("base", "gated")
    ]
    assert found.runs[2].scenario.model.shape == "u"
    assert found.runs[-1].scenario.training.seed == 1
    assert (found.name, found.runs[0].key) == ("small", "small/base/data=builtin,seed=0,shape=standard")


def test_a_list_is_values_of_a_flag_or_names_of_scenarios(tmp_path: Path) -> None:
    found = plan(tmp_path, study={"name": "s"}, axes={"clients": [2, 4], "data": ["e2e", "webnlg"]})
    assert [(run.scenario.clients, run.scenario.data.set) for run in found.runs[::2]] == [
        (2, "e2e"),
        (2, "webnlg"),
        (4, "e2e"),
        (4, "webnlg"),
    ]


def test_study_axis_and_run_are_laid_over_each_other_in_this_order(tmp_path: Path) -> None:
    study = {"name": "s", "scenarios": ["demo"], "set": {"clients": 5, "training": {"epochs": 7}, THRESHOLD: 0.9}}
    axes = {"strict": {"no": {}, "yes": {"set": {THRESHOLD: 0.99, "clients": 6}}}}
    runs = [{"name": "gated", "scenarios": ["splitcom"], "set": {"clients": 4}}, {"name": "other"}]
    found = plan(tmp_path, study=study, axes=axes, runs=runs)
    made = [(r.scenario.clients, r.scenario.streams.activation_up.threshold) for r in found.runs]
    assert made == [(4, 0.9), (5, 0.9), (4, 0.99), (6, 0.99)]
    assert all(run.scenario.training.epochs == 7 for run in found.runs)


def test_runs_go_over_memory_unless_the_plan_says_otherwise(tmp_path: Path) -> None:
    assert plan(tmp_path).runs[0].scenario.transport == "memory"
    over_mqtt = plan(tmp_path, study={"name": "s", "scenarios": ["demo"], "set": {"transport": "mqtt"}})
    assert over_mqtt.runs[0].scenario.transport == "mqtt"


def test_where_limits_a_run_to_values_of_an_axis(tmp_path: Path) -> None:
    runs = [
        {"name": "base", "where": {"seed": [0, 2]}},
        {"name": "gated", "where": {"seed": 1}, "set": {THRESHOLD: 0.9}},
        {"name": "gated", "where": {"seed": "2"}, "set": {THRESHOLD: 0.8}},
    ]
    found = plan(tmp_path, axes={"seed": [0, 1, 2]}, runs=runs)
    assert [(run.method, run.place["seed"]) for run in found.runs] == [
        ("base", "0"),
        ("gated", "1"),
        ("base", "2"),
        ("gated", "2"),
    ]
    assert found.runs[-1].scenario.streams.activation_up.threshold == 0.8


def test_a_key_depends_on_no_order(tmp_path: Path) -> None:
    axes = {"seed": [0, 1], "clients": [2, 3]}
    one, other = plan(tmp_path, axes=axes), plan(tmp_path, axes=dict(reversed(axes.items())))
    assert places(one) != places(other)
    assert {run.key for run in one.runs} == {run.key for run in other.runs}


def test_the_arguments_of_a_run_make_its_scenario(tmp_path: Path) -> None:
    settings = {"lora.targets": ["c_attn", "c_fc"], "streams.gradient_down.enabled": False, "training.clip": 0.5}
    for run in plan(tmp_path, runs=[{"name": "odd", "scenarios": ["splitcom"], "set": settings}]).runs:
        words = run.arguments()
        first = words.index("--set")
        assert set(words[first::2]) == {"--set"}
        assert read(words[:first], from_assignments(words[first + 1 :: 2])) == run.scenario
        assert run.scenario.lora.targets == ("c_attn", "c_fc")
        assert not run.scenario.streams.gradient_down.enabled


def test_the_plan_in_the_documentation_can_be_carried_out(tmp_path: Path) -> None:
    text = (Path(__file__).resolve().parents[2] / "docs" / "studies.md").read_text()
    (tmp_path / "plan.toml").write_text(text.partition("```toml\n")[2].partition("```")[0])
    found = load(tmp_path / "plan.toml")
    assert len(found.runs) == 3 * 2 * 3
    tuned = {
        run.place["data"]: run.scenario.streams.activation_up.threshold for run in found.runs if run.method == "tuned"
    }
    assert tuned == {"e2e": 0.98, "webnlg": 0.99}


def test_only_picks_runs_by_method_and_axis(tmp_path: Path) -> None:
    found = plan(tmp_path, axes={"seed": [0, 1, 2]})
    picked = found.only(["method=gated", "seed=0", "seed=2"])
    assert [(run.method, run.place["seed"]) for run in picked] == [("gated", "0"), ("gated", "2")]
    assert found.only([]) == list(found.runs)
    for condition, said in (
        ("seed", "--only: 'seed'; valid: KEY=VALUE"),
        ("sed=1", "--only: 'sed' is unknown; valid: data, method, seed, shape"),
        ("seed=3", "--only: seed=3 fits no run; valid: 0, 1, 2"),
    ):
        with pytest.raises(ConfigError, match=re.escape(said)):
            found.only([condition])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"study": {}}, "study.name: None; valid: 1 to 64 of the characters"),
        ({"study": {"name": "a/b"}}, "study.name: 'a/b'; valid: "),
        ({"study": {"name": "s", "seeds": 3}}, "study.seeds: unknown key; valid: name, description, scenarios, set"),
        ({"studies": {}}, "studies: unknown key; valid: study, axes, runs"),
        ({"runs": None}, "runs: none; valid: one or more tables [[runs]]"),
        ({"runs": []}, "runs: none; valid: "),
        ({"runs": [{}]}, "runs: entry 1: name: None; valid: "),
        ({"runs": [{"name": "a", "sets": {}}]}, "runs: entry 1: sets: unknown key; valid: name, scenarios, set, where"),
        ({"runs": [{"name": "a", "scenarios": "demo"}]}, "run a: scenarios: 'demo'; valid: a list of names or paths"),
        ({"runs": [{"name": "a", "scenarios": ["splitcon"]}]}, "run a: scenario 'splitcon' is unknown; valid: "),
        ({"runs": [{"name": "a", "scenarios": ["./no.toml"]}]}, "run a: no.toml: No such file or directory"),
        ({"runs": [{"name": "a", "set": {"cliens": 2}}]}, "run a: cliens: unknown key; valid: name, transport"),
        ({"runs": [{"name": "a", "set": {"clients": 0}}]}, "run a: clients: 0 is out of range; valid: 1 or more"),
        ({"runs": [{"name": "a", "set": 3}]}, "run a: set: 3 is no table"),
        ({"runs": [{"name": "a", "where": {"sed": 0}}]}, "run a: where: axis 'sed' is unknown; valid: seed"),
        ({"runs": [{"name": "a", "where": {"seed": 7}}]}, "run a: where.seed: '7' is unknown; valid: 0, 1"),
        ({"runs": [{"name": "a"}, {"name": "a"}]}, "small/a/data=builtin,seed=0,shape=standard: planned twice"),
        ({"runs": [{"name": "a"}, {"name": "b"}]}, "small/b/data=builtin,seed=0,shape=standard: the same settings as"),
        (
            {"runs": [{"name": "a", "set": {"training.seed": 0}}]},
            "small/a/data=builtin,seed=1,shape=standard: the same",
        ),
        ({"axes": {"seed": []}}, "axes.seed: []; valid: a list of values, or a table"),
        ({"axes": {"seed": [1, 1]}}, "axes.seed: a value twice; valid: distinct values"),
        ({"axes": {"seed": ["x"]}}, "training.seed: 'x' is no int"),
        (
            {"axes": {"rate": [0.1]}},
            "axes.rate: 0.1 is no scenario; valid: names of scenarios, tables with scenarios, set, or ",
        ),
        ({"axes": {"rate": {"low": {"sets": {}}}}}, "axes.rate.low.sets: unknown key; valid: scenarios, set"),
        ({"axes": {"data": ["e3e"]}}, "run base: scenario 'e3e' is unknown; valid: "),
        ({"axes": {"two words": [1]}}, "axes: 'two words'; valid: "),
    ],
)
def test_a_mistake_in_a_plan_is_named_with_its_file(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=re.escape(said)) as caught:
        plan(tmp_path, **changes)
    assert str(caught.value).startswith(f"{tmp_path}/plan.toml: ")


def test_a_plan_that_is_no_file_or_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"none\.toml: No such file or directory"):
        load(tmp_path / "none.toml")
    (tmp_path / "broken.toml").write_text("[study\n")
    with pytest.raises(SettingsError, match=r"broken\.toml: not TOML"):
        load(tmp_path / "broken.toml")


def test_paths_threads_and_names_are_no_part_of_a_recipe() -> None:
    one = recipe(read(["e2e", "splitcom"], {"data": {"path": "here"}, "server_threads": 4}))
    other = recipe(read(["e2e", "splitcom"], {"data": {"path": "there"}, "name": "other"}))
    assert one == other
    assert digest(one) == digest(other) != digest(recipe(read(["e2e", "splitlora"])))


def test_a_policy_is_known_by_its_content(tmp_path: Path) -> None:
    policy = tmp_path / "policy.safetensors"
    scenario = read(["ddpg"], {"control": {"policy": str(policy)}})
    without = recipe(scenario)
    policy.write_bytes(b"one")
    first = recipe(scenario)
    policy.write_bytes(b"two")
    assert without["control.policy"] == "policy.safetensors"
    assert len({value["control.policy"] for value in (without, first, recipe(scenario))}) == 3


def test_recipes_are_the_same_when_all_settings_are_and_new_ones_have_their_defaults() -> None:
    planned = recipe(read(["splitcom"]))
    assert same(planned, planned)
    assert not same(planned | {THRESHOLD: 0.5}, planned)
    assert same({key: value for key, value in planned.items() if key != "training.clip"}, planned)
    unusual = recipe(read(["splitcom"], {"training": {"clip": 3.0}}))
    assert not same({key: value for key, value in unusual.items() if key != "training.clip"}, unusual)
    assert same(planned | {"training.gone": 1}, planned)


def test_nested_settings_are_flat_again() -> None:
    planned = recipe(read(["splitcom"]))
    assert flat(nested(planned)) == planned
