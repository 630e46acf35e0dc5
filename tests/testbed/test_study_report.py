"""Comparisons by hand: intervals, paired differences, tables, choices and figures."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner, Result

from splitcom.errors import ConfigError
from testbed.__main__ import main
from testbed.study.choose import choose
from testbed.study.intervals import Estimate, deviation, estimate, mean, paired, t_quantile
from testbed.study.plots import look, thresholds
from testbed.study.report import Row, compare, group_names
from testbed.study.tables import difference, markdown, megabytes, mixed, render, render_choices
from tests.refusals import check_refused, enter

T2 = math.sqrt(2) * 0.95 / math.sqrt(1 - 0.95**2)  # Student's 97.5 % quantile at 2 degrees of freedom, 4.3027
ONE_LINE = "### data e2e, shape standard"


def line(method: str, seed: int, perplexity: float | None, total: int = 100, **more: Any) -> dict[str, Any]:
    place = {"data": "e2e", "shape": "standard", "seed": str(seed)} | more.pop("place", {})
    bleu = more.pop("bleu", 30.0)
    gate = {"gate": more.pop("gate", "none"), "threshold": 0.9}
    epochs = {"perplexity": [20.0, perplexity], "bits": {"all": [16.0, 4.0, 2.0]}}
    epochs |= {"skip_ratio": {"activation_up": [0.0, 0.5]}, **more.pop("epochs", {})}
    return {
        "key": f"s/{method}/" + ",".join(f"{name}={place[name]}" for name in sorted(place)),
        "study": "s",
        "method": method,
        "place": place,
        "settings": {"streams": {"activation_up": gate}},
        "summary": {
            "uplink_bytes": total // 4,
            "downlink_bytes": total - total // 4,
            "total_bytes": total,
            "perplexity": perplexity,
            "bleu": bleu,
        },
        "epochs": epochs,
        **more,
    }


@pytest.fixture
def sweep() -> list[dict[str, Any]]:
    """A baseline and two thresholds at three seeds: perplexity +0.5, +0.2, +0.8 and +2, +2, +2; BLEU -1 each."""
    base = [(10.0, 30.0), (12.0, 31.0), (14.0, 32.0)]
    lines = [line("splitlora", seed, p, 1000, bleu=b) for seed, (p, b) in enumerate(base)]
    for seed, ((p, b), more) in enumerate(zip(base, (0.5, 0.2, 0.8), strict=True)):
        lines.append(line("gate-98", seed, p + more, 400, bleu=b - 1, gate="cosine"))
        lines.append(line("gate-95", seed, p + 2, 300, bleu=b - 1, gate="cosine"))
    return lines


def rows(lines: list[dict[str, Any]], baseline: str = "splitlora") -> dict[str, Row]:
    (group,) = compare(lines, baseline)
    return {row.method: row for row in group.rows}


@pytest.mark.parametrize(
    ("freedom", "quantile"),
    [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (5, 2.5706), (9, 2.2622), (10, 2.2281), (30, 2.0423)],
)
def test_quantiles_are_those_of_the_printed_tables(freedom: int, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=5e-5)


def test_quantiles_have_closed_forms_at_one_and_two_and_come_near_the_normal_one() -> None:
    assert t_quantile(1) == pytest.approx(math.tan(0.475 * math.pi))
    assert t_quantile(2) == pytest.approx(T2)
    assert t_quantile(2, 0.5) == pytest.approx(0.816496580927726)
    assert t_quantile(100_000) == pytest.approx(1.959964, abs=1e-4)
    with pytest.raises(ValueError, match="0 degrees of freedom"):
        t_quantile(0)


def test_an_interval_by_hand() -> None:
    # 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14 over 2 give s = sqrt(7), half width t * sqrt(7 / 3)
    assert (mean([1, 2, 6]), deviation([1, 2, 6])) == (3.0, math.sqrt(7))
    found = estimate([1, 2, 6])
    assert (found.mean, found.n, found.resolved) == (3.0, 3, False)
    assert found.half_width == pytest.approx(T2 * math.sqrt(7 / 3))
    assert estimate([4.0]) == Estimate(4.0, None, 1)
    assert not estimate([4.0]).resolved
    with pytest.raises(ValueError, match="no values"):
        mean([])


def test_pairs_take_out_what_a_seed_does_to_both() -> None:
    found = paired([10.5, 20.4, 40.6], [10.0, 20.0, 40.0])
    assert found.mean == pytest.approx(0.5)
    assert found.half_width == pytest.approx(T2 * 0.1 / math.sqrt(3))  # the differences are 0.5, 0.4, 0.6
    assert found.resolved
    with pytest.raises(ValueError, match="zip"):
        paired([1.0], [1.0, 2.0])


def test_intervals_hold_as_often_as_they_say() -> None:
    draw = random.Random(5)
    held = 0
    for _ in range(4000):
        found = estimate([draw.gauss(1.0, 2.0) for _ in range(3)])
        assert found.half_width is not None
        held += abs(found.mean - 1.0) <= found.half_width
    assert abs(held / 4000 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 4000)


def test_a_method_is_compared_with_the_baseline_seed_by_seed(sweep: list[dict[str, Any]]) -> None:
    found = rows(sweep)
    assert list(found) == ["splitlora", "gate-98", "gate-95"]
    gate = found["gate-98"]
    assert (gate.seeds, gate.uplink, gate.downlink, gate.total) == (3, 100.0, 300.0, 400.0)
    assert (gate.saved, gate.bits_first, gate.bits_later) == (pytest.approx(60.0), 16.0, 3.0)
    assert (gate.perplexity, gate.bleu) == (pytest.approx(12.5), 30.0)
    assert gate.perplexity_difference is not None
    assert gate.perplexity_difference.mean == pytest.approx(0.5)
    assert gate.perplexity_difference.half_width == pytest.approx(T2 * 0.3 / math.sqrt(3))
    assert not gate.perplexity_difference.resolved
    assert gate.perplexity_percent is not None
    assert gate.perplexity_percent.mean == pytest.approx((5 + 100 * 0.2 / 12 + 100 * 0.8 / 14) / 3)
    assert gate.bleu_difference == Estimate(-1.0, 0.0, 3)
    base = found["splitlora"]
    assert (base.saved, base.perplexity_difference, base.bleu_difference) == (0.0, None, None)


def test_seeds_that_the_baseline_lacks_count_for_means_and_not_for_differences(sweep: list[dict[str, Any]]) -> None:
    found = rows([*sweep, line("gate-98", 3, 90.0, 900)])["gate-98"]
    assert (found.seeds, found.total) == (4, 525.0)
    assert found.perplexity_difference is not None
    assert (found.perplexity_difference.n, found.saved) == (3, pytest.approx(60.0))
    assert rows([*sweep, line("lonely", 7, 9.0)])["lonely"].saved is None


def test_runs_without_quality_are_left_out_of_it(sweep: list[dict[str, Any]]) -> None:
    found = rows([*sweep, line("broken", 0, None, bleu=None), line("broken", 1, 13.0, bleu=None)])["broken"]
    assert (found.perplexity, found.bleu, found.bleu_difference) == (13.0, None, None)
    assert found.perplexity_difference == Estimate(1.0, None, 1)


def test_groups_are_what_runs_differ_in_but_for_seeds(sweep: list[dict[str, Any]]) -> None:
    assert group_names(sweep) == ["data", "shape"]
    more = [line("splitlora", 0, 50.0, place={"data": "dart"}), line("gate-98", 0, 51.0, place={"data": "dart"})]
    groups = compare([*sweep, *more], "splitlora")
    assert [(group.title, len(group.rows)) for group in groups] == [
        ("data dart, shape standard", 2),
        ("data e2e, shape standard", 3),
    ]
    clients = [line("splitlora", 0, 50.0, place={"clients": "9"})]
    assert group_names([*sweep, *clients]) == ["data", "shape", "clients"]
    said = r"--by: s/splitlora/\S+ and s/splitlora/\S+ fall together; valid: add clients"
    with pytest.raises(ConfigError, match=said):
        compare([*sweep, *clients], "splitlora", ["data", "shape"])


def test_a_baseline_or_a_name_that_is_not_there_is_answered_with_what_is(sweep: list[dict[str, Any]]) -> None:
    with pytest.raises(ConfigError, match="--baseline: 'fp16' is in no group; valid: gate-95, gate-98, splitlora"):
        compare(sweep, "fp16")
    with pytest.raises(ConfigError, match="--by: 'seed' is unknown; valid: base, data, shape, study"):
        compare(sweep, "splitlora", ["seed"])
    with pytest.raises(ConfigError, match="--among: no method begins with 'x'; valid: gate-95, gate-98, splitlora"):
        choose(sweep, "splitlora", "x", 1.0)


def test_the_cheapest_setting_within_the_limit_is_chosen(sweep: list[dict[str, Any]]) -> None:
    # gate-98 is 4.13 % above the baseline in the mean, gate-95 16.98 %
    def chosen(limit: float) -> str | None:
        (choice,) = choose(sweep, "splitlora", "gate", limit)
        assert [row.method for row in choice.sweep] == ["gate-98", "gate-95"]
        return choice.chosen

    assert [chosen(limit) for limit in (4.0, 4.2, 16.9, 17.0)] == [None, "gate-98", "gate-98", "gate-95"]


def test_a_difference_says_its_interval_n_and_whether_it_is_resolved() -> None:
    assert difference(Estimate(0.5, 0.25, 3)) == "+0.50 ± 0.25 (n = 3)"
    assert difference(Estimate(-0.5, 0.5, 3), 1) == "-0.5 ± 0.5 (n = 3), unresolved"
    assert difference(Estimate(0.5, None, 1), 1, " %") == "+0.5 % (n = 1), unresolved"
    assert difference(None) == "-"


def test_sizes_have_three_digits_or_more() -> None:
    assert [megabytes(size) for size in (123_456_789, 12_345_678, 1_234_567, 12_345)] == [
        "123.5",
        "12.3",
        "1.23",
        "0.012",
    ]


def test_the_report_is_a_table_per_group(sweep: list[dict[str, Any]]) -> None:
    other = line("gate-98", 0, 51.0, place={"data": "dart"})
    text = render(compare([*sweep, other], "splitlora"), mixed([*sweep, line("x", 0, 1.0, threads=2)]))
    lines = text.splitlines()
    assert "Note: these runs were made with 2 numbers of threads." in lines
    assert "No run of splitlora here, so nothing to compare with." in lines
    table = lines[lines.index(ONE_LINE) + 2 :]
    assert table[0].startswith("| method | seeds | uplink MB | downlink MB | total MB | saved against splitlora |")
    assert table[3].endswith(
        "| 60.0 % | 16.00 / 3.00 | 12.50 | +0.50 ± 0.75 (n = 3), unresolved | +4.1 % | 30.0 | -1.0 ± 0.0 (n = 3) |"
    )
    assert len({row.count("|") for row in table[:5]}) == 1


def test_markdown_has_a_line_under_its_heads() -> None:
    assert markdown([{"a": "1", "b": "2"}]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_a_sweep_without_a_choice_says_so(sweep: list[dict[str, Any]]) -> None:
    text = render_choices(choose(sweep, "splitlora", "gate", 1.0), 1.0)
    assert text.endswith("chosen: none (at most 1 % above splitlora's validation perplexity)")
    text = render_choices(choose(sweep, "splitlora", "gate", 5.0), 5.0)
    # 5, 1.667 and 5.714 %: mean 4.127, s = 2.160, half width 4.3027 * 2.160 / sqrt(3)
    assert "| +4.13 % ± 5.37 (n = 3), unresolved | chosen |" in text
    assert text.endswith("chosen: gate-98")


def test_a_threshold_holds_until_the_controller_tells_another() -> None:
    told = {"skip_ratio": {"activation_up": [0.0] * 4}, "thresholds": {"activation_up": [None, 0.8, None, 0.7]}}
    assert thresholds(line("m", 0, 9.0, gate="cosine", epochs=told), "activation_up") == [0.9, 0.8, 0.8, 0.7]


def test_every_method_of_a_figure_looks_different() -> None:
    assert len({look(number) for number in range(64)}) == 64
    assert look(8)[0] == look(0)[0]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sweep: list[dict[str, Any]]) -> Path:
    """The working directory, with the results of the sweep in two files."""
    enter(tmp_path, "SPLITCOM_", monkeypatch)
    Path("a.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sweep[:5]))
    Path("b.jsonl").write_text("".join(json.dumps(each) + "\n" for each in sweep[5:]))
    Path("empty.jsonl").touch()
    return tmp_path


def study(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["study", *arguments], prog_name="splitcom")


def test_reports_and_choices_are_printed_and_given_as_json(here: Path) -> None:
    printed = study("report", "a.jsonl", "b.jsonl")
    assert printed.exit_code == 0
    assert ONE_LINE in printed.stdout
    (group,) = json.loads(study("report", "a.jsonl", "b.jsonl", "--by", "data", "--json").stdout)["groups"]
    assert group["place"] == {"data": "e2e"}
    assert [row["method"] for row in group["rows"]] == ["splitlora", "gate-98", "gate-95"]
    assert group["rows"][1]["bleu_difference"] == {"mean": -1.0, "half_width": 0.0, "n": 3}
    chosen = study("choose", "a.jsonl", "b.jsonl", "--among", "gate", "--max-worse", "5%", "--by", "data,shape")
    assert chosen.stdout.endswith("chosen: gate-98\n")
    (choice,) = json.loads(study("choose", "a.jsonl", "b.jsonl", "--among", "gate", "--json").stdout)
    assert (choice["chosen"], len(choice["sweep"])) == (None, 2)


def test_only_limits_a_report(here: Path) -> None:
    arguments = ["--only", "method=splitlora", "--only", "method=gate-95", "--only", "seed=0", "--json"]
    (group,) = json.loads(study("report", "a.jsonl", "b.jsonl", *arguments).stdout)["groups"]
    assert [(row["method"], row["seeds"]) for row in group["rows"]] == [("splitlora", 1), ("gate-95", 1)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["report"], "'RESULTS...'"),
        (["report", "none.jsonl"], "none.jsonl: No such file or directory"),
        (["report", "empty.jsonl"], "empty.jsonl: no results; valid: files that `splitcom study run` wrote"),
        (
            ["report", "a.jsonl", "--baseline", "x"],
            "--baseline: 'x' is in no group; valid: gate-95, gate-98, splitlora",
        ),
        (["report", "a.jsonl", "--by", "colour"], "--by: 'colour' is unknown; valid: base, data, shape, study"),
        (["report", "a.jsonl", "--only", "method=x"], "--only: method=x fits no run; valid: gate-95, gate-98, splitl"),
        (["report", "a.jsonl", "--format", "pdf"], "'pdf' is not one of 'svg', 'png'"),
        (["choose", "a.jsonl"], "Missing option '--among'"),
        (["choose", "a.jsonl", "--among", "x"], "--among: no method begins with 'x'; valid: "),
        (["choose", "a.jsonl", "--among", "gate", "--max-worse", "few"], "--max-worse: 'few' is no percentage; valid:"),
    ],
)
def test_a_mistake_gets_one_line(arguments: list[str], said: str, here: Path) -> None:
    check_refused(study(*arguments), said)


def test_figures_without_their_package_are_refused(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check_refused(
        study("report", "a.jsonl", "--plot", "f"), "--plot: needs the package matplotlib; valid: no plots, or"
    )
    assert not Path("f").exists()


def test_figures_tell_every_method_and_repeat_to_the_byte(here: Path) -> None:
    pytest.importorskip("matplotlib")
    printed = study("report", "a.jsonl", "b.jsonl", "--plot", "one")
    assert printed.exit_code == 0, printed.output
    names = ["data-e2e-shape-standard-activation_up.svg", "data-e2e-shape-standard-bytes.svg"]
    assert sorted(path.name for path in Path("one").iterdir()) == names
    assert all(f"  one/{name}" in printed.stdout.splitlines() for name in names)
    told = {name: _texts(Path("one", name)) for name in names}
    assert {"total bytes, MB", "validation perplexity", "splitlora", "gate-98", "gate-95"} <= told[names[1]]
    assert {"epoch", "threshold", "skip ratio", "validation perplexity", "gate-98", "gate-95"} <= told[names[0]]
    assert "splitlora" not in told[names[0]]  # it has no gate
    assert study("report", "a.jsonl", "b.jsonl", "--plot", "two").exit_code == 0
    assert all(Path("one", name).read_bytes() == Path("two", name).read_bytes() for name in names)


def test_figures_are_drawn_as_png_when_asked_for(here: Path) -> None:
    pytest.importorskip("matplotlib")
    assert study("report", "a.jsonl", "b.jsonl", "--plot", "f", "--format", "png").exit_code == 0
    for path in Path("f").iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")


def _texts(path: Path) -> set[str]:
    return {element.text or "" for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")}
