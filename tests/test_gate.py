"""`metaselect gate`: verdicts, exit codes, and the files for other programs."""

import html
import json
import re
import subprocess
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree

import pytest
from command_line import SIMULATE, TEST, TRUTH, command, environment, flip_byte, metaselect, run_process
from test_json_keys import check

from metaselect.annotation.quality.noise_estimate import wilson
from metaselect.report.gate import CANNOT_TELL, FAIL, PASS, Figure, GateReport, judge
from metaselect.report.github import MOST_BYTES, annotations, append_summary, step_summary
from metaselect.report.junit import junit
from metaselect.report.openmetrics import openmetrics
from metaselect.run.layout import Run
from metaselect.stages.gate import Evaluated, _score, drop_between

HOSTILE = 'a<b>&"c"|\n::error title=x::y $x$ %0A \\ ##[error] ]]> \x1b[31m \ud800 \uffff @team'
DOCS = Path(__file__).resolve().parents[1] / "docs"


def report(text: str = HOSTILE) -> GateReport:
    """One condition of each verdict, with a text in every place."""
    figures = {
        "max_noise": Figure(None, unknown=text, command=text),
        "min_accuracy": Figure(0.5, 0.4, 0.6, command=text),
        "max_drop": Figure(0.004, -0.01, 0.02),
    }
    limits = {"max_noise": 0.2, "min_accuracy": 0.9, "max_drop": 0.01}
    judged = [judge(name, figures[name], limits[name], confident=False) for name in figures]
    assert [each.verdict for each in judged] == [CANNOT_TELL, FAIL, PASS]
    return GateReport(text, text, text, judged)


@pytest.mark.parametrize("name", ["max_noise", "min_accuracy"])
def test_verdicts_of_every_order_of_figure_interval_and_limit(name: str) -> None:
    """By the definition: a set of shares is on the right side if each of them is."""
    for low, value, high, limit in product(range(5), repeat=4):
        if not low <= value <= high:
            continue
        right = [share <= limit if name == "max_noise" else share >= limit for share in range(5)]
        figure = Figure(value / 4, low / 4, high / 4)
        plain, confident = (judge(name, figure, limit / 4, confident=each).verdict for each in (False, True))
        assert plain == (PASS if right[value] else FAIL)
        whole = all(right[low : high + 1])
        assert confident == (PASS if whole else CANNOT_TELL if right[value] else FAIL)


def test_what_is_not_known_never_passes() -> None:
    assert judge("min_auc", Figure(None, unknown="why"), 0.0, confident=False).verdict == CANNOT_TELL
    without = Figure(1.0)
    assert judge("min_auc", without, 0.5, confident=False).verdict == PASS
    assert judge("min_auc", without, 0.5, confident=True).verdict == CANNOT_TELL
    assert judge("max_drop", Figure(0.95 - 0.94), 0.01, confident=False).verdict == PASS


def test_the_command_mends_what_is_wrong() -> None:
    figure = Figure(0.5, 0.4, 0.6, command="better", narrower="more")
    limits = {0.5: ("", "more"), 0.55: ("better", "better"), 0.3: ("", "")}
    for limit, expected in limits.items():
        judged = [judge("min_accuracy", figure, limit, confident=each) for each in (False, True)]
        assert tuple(each.command for each in judged) == expected


def test_the_interval_of_a_drop_is_the_published_one() -> None:
    """Newcombe 1998, table II, example (a), method 10: 56/70 less 48/80."""
    drop = drop_between((56 / 70, *wilson(56, 70)), (48 / 80, *wilson(48, 80)))
    assert drop.value == pytest.approx(0.2)
    assert drop[1:3] == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_junit_is_read_back_with_every_text() -> None:
    root = ElementTree.fromstring(junit(report()).encode())
    suite = root[0]
    for counted in (root, suite):
        assert [counted.get(key) for key in ("tests", "failures", "errors")] == ["3", "1", "1"]
    assert [case.get("name") for case in suite] == ["max_noise", "min_accuracy", "max_drop"]
    assert [case[0].tag for case in suite] == ["error", "failure", "system-out"]
    shown = suite[0][0].get("message", "")
    assert shown.startswith('a<b>&"c"|\\n::error title=x::y $x$ %0A \\ ##[error] ]]> \\x1b[31m \\ud800')
    assert "share of wrong labels: not known, must be at most 20.00%" in (suite[0][0].text or "")
    assert all(len(case) == 1 and not len(case[0]) for case in suite)


NAME, LABEL = r"[a-zA-Z_:][a-zA-Z0-9_:]*", r'[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\"n])*"'
DESCRIPTION = re.compile(rf"# (TYPE|UNIT|HELP) ({NAME}) (.+)")
SAMPLE = re.compile(rf"({NAME})\{{({LABEL}(?:,{LABEL})*)\}} (\S+)", re.ASCII)


def parsed(text: str) -> Iterator[tuple[str, str, dict[str, str], float]]:
    """(type, name, labels, value) of each sample of an OpenMetrics text, by the grammar of its specification."""
    *lines, end = text.removesuffix("\n").split("\n")
    assert end == "# EOF"
    types: dict[str, str] = {}
    family = ""
    for line in lines:
        if description := DESCRIPTION.fullmatch(line):
            what, family, value = description.groups()
            assert (what == "TYPE") == (family not in types)  # first, and once
            if what == "TYPE":
                types[family] = value
            if what == "UNIT":
                assert family.endswith(f"_{value}")
            continue
        sample = SAMPLE.fullmatch(line)
        assert sample, line
        assert sample[1] == family  # the samples of a family stand together
        pairs = (pair.split("=", 1) for pair in re.findall(LABEL, sample[2]))
        names = {name: re.sub(r"\\(.)", lambda found: found[1], value[1:-1]) for name, value in pairs}
        yield types[family], family, names, float(sample[3])


def test_openmetrics_follows_its_grammar() -> None:
    samples = list(parsed(openmetrics(report())))
    values = {(name, labels["condition"]): value for kind, name, labels, value in samples if kind == "gauge"}
    assert values["metaselect_gate_value_ratio", "min_accuracy"] == 0.5
    assert values["metaselect_gate_low_ratio", "max_drop"] == -0.01
    assert values["metaselect_gate_limit_ratio", "max_noise"] == 0.2
    assert ("metaselect_gate_value_ratio", "max_noise") not in values
    states = {
        (labels["condition"], labels[name]): value
        for kind, name, labels, value in samples
        if kind == "stateset"
    }
    assert len(states) == 9
    assert {key for key, value in states.items() if value} == {
        ("max_noise", CANNOT_TELL),
        ("min_accuracy", FAIL),
        ("max_drop", PASS),
    }
    assert all(labels["run"].startswith('a<b>&"c"|\\n::error') for *_, labels, _ in samples)


def test_the_step_summary_shows_texts_as_they_are(tmp_path: Path) -> None:
    text = step_summary(report())
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + 3
    assert [row.count("|") for row in rows] == [7] * 5
    about = next(line for line in text.splitlines() if line.startswith("run "))
    assert html.unescape(about).startswith('run a<b>&"c"|\\n::error title=x::y $x$')
    assert not set("<>|$`*_[]@\\~:") & set(about.replace("&#", ""))
    assert not re.search(r"<(?!/?code>)", text)


def test_a_summary_that_becomes_too_long_is_left_out(tmp_path: Path) -> None:
    path, size = tmp_path / "summary.md", len(step_summary(report()).encode())
    path.write_bytes(b"x" * (MOST_BYTES - size))
    assert append_summary(path, report())
    assert path.stat().st_size == MOST_BYTES
    before = path.read_bytes()
    assert not append_summary(path, report())
    assert path.read_bytes() == before


def test_annotations_are_one_workflow_command_each() -> None:
    """As actions/runner takes them apart: the properties up to the second ::, then the message."""
    lines = annotations(report())
    assert len(lines) == 2
    for line in lines:
        assert "\n" not in line
        assert "\r" not in line
        head, _, message = line.removeprefix("::").partition("::")
        name, _, properties = head.partition(" ")
        assert name == "error"
        (title,) = properties.split(",")
        assert re.fullmatch(r"title=metaselect gate%3A [\w ]+", title)
        assert message.replace("%25", "").count("%") == 0
    assert "::error title=x::y $x$ %250A" in lines[0]


def conditions(words: tuple[object, ...], run: Path, code: int) -> dict[str, Any]:
    """By name, the conditions of a gate."""
    said = metaselect("gate", *words, "--json", run=run, code=code).json
    assert said["ok"] is (code == 0)
    assert check("`gate`", said) == []
    return {condition["name"]: condition for condition in said["conditions"]}


def test_the_figures_are_those_of_the_evaluation(finished: Path) -> None:
    metrics = json.loads((finished / "evaluate/test/metrics.json").read_text())
    for model in ("warmup", "auto", "uniform"):
        scores = metrics["warmup"] if model == "warmup" else metrics["reweight"][model]
        accuracy, low = scores["test_accuracy"], scores["test_accuracy_low"]
        for limit, code in ((accuracy, 0), (accuracy + 0.001, 1)):
            words = ("--model", model, "--min-accuracy", limit, "--min-auc", scores["rank_auc"])
            found = conditions(words, finished, code)
            assert found["min_accuracy"]["value"] == accuracy
            assert found["min_auc"]["value"] == scores["rank_auc"]
            assert found["min_auc"]["low"] == scores["rank_auc_low"] < scores["rank_auc"]
        conditions(("--model", model, "--min-accuracy", low, "--confident"), finished, 0)
        between = conditions(
            ("--model", model, "--min-accuracy", (accuracy + low) / 2, "--confident"), finished, 1
        )
        assert between["min_accuracy"]["verdict"] == CANNOT_TELL
    said = metaselect("gate", "--min-balanced-accuracy", 0, "--json", run=finished).json
    assert said["model"] == metrics["take"]["model"]


def test_a_drop_is_against_the_same_samples_alone(finished: Path, tmp_path: Path) -> None:
    metrics = json.loads((finished / "evaluate/test/metrics.json").read_text())
    taken, baseline = metrics["take"]["model"], tmp_path / "old.json"
    scores = metrics["warmup"] if taken == "warmup" else metrics["reweight"][taken]
    scores["test_accuracy"] += 0.02
    baseline.write_text(json.dumps(metrics))
    words = ("--baseline", baseline, "--max-drop")
    assert conditions((*words, 2), finished, 0)["max_drop"]["value"] == pytest.approx(0.02)
    assert conditions((*words, 1.9), finished, 1)["max_drop"]["verdict"] == FAIL
    baseline.write_text(json.dumps({**metrics, "test_content": "0" * 64}))
    assert conditions((*words, 2), finished, 1)["max_drop"]["verdict"] == CANNOT_TELL
    for content in ("[]", "{}", "", "\xff", '{"take": null}', '{"take": {"model": "x"}, "reweight": {}}'):
        baseline.write_bytes(content.encode("latin-1"))
        said = metaselect("gate", *words, 2, run=finished, code=3)
        assert str(baseline) in said.err
    scores["test_accuracy"] = 10**400
    baseline.write_text(json.dumps(metrics))
    metaselect("gate", *words, 2, run=finished, code=3)


def test_noise_is_by_the_control_samples_and_makes_the_model_stale(finished: Path) -> None:
    found = conditions(("--max-noise", 0.9), finished, 1)["max_noise"]
    assert (found["verdict"], found["value"]) == (CANNOT_TELL, None)
    assert "--control" in found["command"]
    metaselect("select", "--budget", 8, "--round", "next", "--control", 1, run=finished)
    found = conditions(("--max-noise", 0.9), finished, 1)["max_noise"]
    assert found["command"].startswith("metaselect annotate export")
    metaselect(*SIMULATE, run=finished)
    estimate = metaselect("status", "--json", run=finished, code=1).json["noise_estimate"]
    for limit, verdict in ((estimate["rate"], PASS), (estimate["rate"] - 0.01, FAIL)):
        found = conditions(("--max-noise", limit), finished, int(verdict == FAIL))["max_noise"]
        assert [found[key] for key in ("verdict", "value", "low", "high")] == [
            verdict,
            *(estimate[key] for key in ("rate", "low", "high")),
        ]
    stale = conditions(("--min-accuracy", 0, "--min-auc", 0), finished, 1)
    assert {condition["verdict"] for condition in stale.values()} == {CANNOT_TELL}
    assert "is stale" in stale["min_accuracy"]["why"]
    assert stale["min_accuracy"]["command"].startswith("metaselect reweight")


def test_without_a_truth_nobody_can_tell_the_ranking(finished: Path) -> None:
    metaselect("evaluate", TEST, "--name", "plain", run=finished)
    found = conditions(("--min-auc", 0, "--test", "plain"), finished, 1)["min_auc"]
    assert "--truth" in found["why"]
    words = found["command"].replace("TRUTH.csv", str(TRUTH)).split()
    metaselect(*words[1:])  # the command mends it
    conditions(("--min-auc", 0, "--test", "plain"), finished, 0)


SCRIPT = """
expect() { code=$1; shift; "$@" >>out 2>&1; got=$?; test $got -eq $code || echo "$got, not $code: $*"; }
expect 0 $GATE --run "$RUN" --min-accuracy 0
expect 1 $GATE --run "$RUN" --min-accuracy 1
expect 1 $GATE --run "$RUN" --min-accuracy 0 --max-noise 1
expect 2 $GATE --run "$RUN"
expect 2 $GATE --run "$RUN" --min-accuracy 90
expect 2 $GATE --run "$RUN" --min-accuracy nan
expect 2 $GATE --run "$RUN" --min-accuracy 0 --model ::error
expect 2 $GATE --run "$RUN" --max-drop 1
expect 2 $GATE --run "$RUN" --min-accuracy 0 --junit .
expect 3 $GATE --run "$RUN" --max-drop 1 --baseline nothing.json
expect 4 $GATE --run "$RUN" --min-accuracy 0 --test ../../data
expect 4 $GATE --run nowhere --min-accuracy 0
if $GATE --run "$RUN" --min-accuracy 0 --junit j.xml --openmetrics o.prom; then echo through; fi
if ! $GATE --run "$RUN" --min-accuracy 1 --quiet; then echo stopped; fi
"""


def test_every_exit_code_in_a_shell_script(finished: Path, tmp_path: Path) -> None:
    """The run's folder has a hostile name, which stays a text in everything that is written."""
    run = finished.rename(tmp_path / "a<b>|\n::error::x $x$")
    summary = tmp_path / "summary.md"
    env = environment(
        GATE=" ".join(command("gate")),
        RUN=str(run),
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(summary),
    )
    ended = subprocess.run(
        ["sh", "-c", SCRIPT], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    lines = ended.stdout.splitlines()
    assert lines[1:2] == ["through"]
    assert lines[3:] == ["stopped"]
    assert lines[0].startswith("pass ")
    assert lines[2].startswith("fail ")
    commands = [line for line in ended.stderr.splitlines() if line.lstrip().startswith("::")]
    assert len(commands) == 1  # of the last gate; the folder's name begins no line
    case = ElementTree.parse(tmp_path / "j.xml").getroot()[0][0]
    assert "a<b>|\\n::error::x $x$/test/" in case.get("classname", "")
    assert list(parsed((tmp_path / "o.prom").read_text()))
    assert summary.read_text().count("### metaselect gate") == 5
    assert "<b>" not in summary.read_text()


def test_what_cannot_be_asked(finished: Path, tmp_path: Path) -> None:
    metaselect("evaluate", TEST, "--name", "second", run=finished)
    said = metaselect("gate", "--min-accuracy", 0, run=finished, code=2)
    assert "--test: second, test" in said.err
    env = {"GITHUB_STEP_SUMMARY": str(tmp_path / "no/such/folder")}
    words = ("gate", "--min-accuracy", 0, "--test", "second")
    assert "left out there" in metaselect(*words, run=finished, env=env).err
    flip_byte(finished / "evaluate/second/metrics.json")
    assert "damaged" in metaselect(*words, run=finished, code=4).err


def test_a_run_without_evaluation_can_have_a_limit_of_noise_alone(bought: Path) -> None:
    conditions(("--max-noise", 1), bought, 1)
    said = metaselect("gate", "--min-accuracy", 0, run=bought, code=4)
    assert "metaselect evaluate TEST" in said.err


def test_the_documented_script_runs(finished: Path, tmp_path: Path) -> None:
    (script,) = re.findall(r"```sh\n(.*?)```", (DOCS / "gate.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/metaselect"
    program.write_text(f'#!/bin/sh\nexec {" ".join(command())} "$@"\n')
    program.chmod(0o755)
    (tmp_path / "test.parquet").symlink_to(TEST)
    env = environment(RUN=str(finished))
    env["PATH"] = f"{tmp_path / 'bin'}:{env['PATH']}"
    commands = script.replace(
        'reweight --run "$RUN"', 'status --run "$RUN"'
    )  # it is up to date with other options
    commands = commands.replace("evaluate test.parquet", f"evaluate test.parquet --truth {TRUTH}")
    ended = subprocess.run(
        ["sh", "-c", commands], capture_output=True, text=True, cwd=tmp_path, env=env, check=False
    )
    assert ended.stdout.splitlines()[-1] == "publish", ended.stderr
    assert (tmp_path / "gate.prom").is_file()


def test_gate_imports_nothing_heavy(finished: Path) -> None:
    words = ("gate", "--min-accuracy", 0, "--junit", finished.parent / "j.xml")
    code = f"import sys; from metaselect.cli.main import main; main({[*map(str, words), '--run', str(finished)]}); "
    code += "print(sorted({'torch', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    ended = subprocess.run(
        [*command()[:1], "-c", code], capture_output=True, text=True, env=environment(), check=True
    )
    assert ended.stdout.splitlines()[-1] == "[]"
    assert run_process("gate", "--help").code == 0


def test_an_interval_without_width_is_none() -> None:
    """The bootstrap of samples that are all right has one value."""
    right = {f"balanced_accuracy{end}": 1.0 for end in ("", "_low", "_high")}
    evaluated = Evaluated(cast(Run, None), "test", {"warmup": right}, "warmup", None, "more")
    figure = _score(evaluated, "min_balanced_accuracy")
    assert (figure.value, figure.low, figure.high) == (1.0, None, None)
    assert judge("min_balanced_accuracy", figure, 0.9, confident=False).verdict == PASS
    assert judge("min_balanced_accuracy", figure, 0.9, confident=True).verdict == CANNOT_TELL
