"""METEOR: our side of the talk with the program, by a program that stands in for java, and the real one where it is."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest

from splitcom.errors import ConfigError
from splitcom.metrics import Meteor, score

STAND_IN = """#!{python}
import json, sys
arguments = sys.argv[1:]
files = [open(path, encoding="utf-8").read() for path in arguments[4:6]]
json.dump([arguments, files], open({record!r}, "w"))
{then}
"""


def stand_in(folder: Path, then: str) -> Meteor:
    """The metric with a program in java's place that writes down what it was given and then does `then`."""
    java, jar = folder / "java", folder / "meteor-1.5.jar"
    java.write_text(STAND_IN.format(python=sys.executable, record=str(folder / "record.json"), then=then))
    java.chmod(0o755)
    jar.touch()
    return Meteor(jar, str(java), timeout_s=60)


def test_the_program_gets_a_text_a_line_and_equally_many_references_each(tmp_path: Path) -> None:
    meteor = stand_in(tmp_path, "print('Segment 1 score: 0.5\\n\\nFinal score:            0.4321')")
    value = meteor(["One\u2028 café.\n", ""], [["a", "b\nb"], ["c"]])
    assert value == pytest.approx(43.21)
    arguments, files = json.loads((tmp_path / "record.json").read_text())
    assert arguments[:4] == ["-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(meteor.jar)]
    assert arguments[6:] == ["-l", "en", "-norm", "-r", "2"]
    assert files == ["One café.\n\n", "a\nb b\nc\nc\n"]
    assert not Path(arguments[4]).exists()


@pytest.mark.parametrize(
    ("then", "said"),
    [
        ("sys.exit('Error: no jar\\nand more')", r"java ended with status 1: Error: no jar$"),
        ("sys.exit(3)", r"java ended with status 3: nothing was said$"),
        ("print('Final score: high')", r"meteor-1\.5\.jar told no score; valid: the official meteor-1\.5\.jar$"),
    ],
)
def test_a_program_that_fails_is_told_in_one_line(then: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        stand_in(tmp_path, then)(["a"], [["a"]])


def test_a_program_that_does_not_end_is_not_waited_for(tmp_path: Path) -> None:
    meteor = stand_in(tmp_path, "import threading; threading.Event().wait(600)")
    with pytest.raises(ConfigError, match=r"meteor-1\.5\.jar did not end within 0\.5 s"):
        Meteor(meteor.jar, meteor.java, timeout_s=0.5)(["a"], [["a"]])


def test_a_missing_jar_or_java_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"meteor: nowhere\.jar is no file; valid: the official meteor-1\.5\.jar"):
        Meteor(Path("nowhere.jar"))(["a"], [["a"]])
    meteor = stand_in(tmp_path, "")
    with pytest.raises(ConfigError, match="meteor: no program no-such-java on PATH; valid: a Java runtime"):
        Meteor(meteor.jar, "no-such-java")(["a"], [["a"]])
    Path(meteor.java).write_text("no program")
    with pytest.raises(ConfigError, match=r"meteor: .*/java: .*; valid: a Java runtime"):
        meteor(["a"], [["a"]])


def test_every_hypothesis_needs_a_reference(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="references: "):
        stand_in(tmp_path, "")(["a", "b"], [["a"]])


@pytest.mark.slow
def test_the_official_program_scores_copies_best() -> None:
    jar = os.environ.get("SPLITCOM_METEOR_JAR")
    if not jar:
        pytest.skip("SPLITCOM_METEOR_JAR names no meteor-1.5.jar")
    if shutil.which("java") is None:
        pytest.skip("no program java on PATH")
    meteor = Meteor(Path(jar))
    texts = ["Blue Spice is a coffee shop near the river.", "Cocum is a cheap pub."]
    references = [[texts[0], "There is a coffee shop, Blue Spice."], [texts[1]]]
    assert score(texts, references, ["meteor"], {"meteor": meteor})["meteor"] == pytest.approx(100)
    assert 0 < meteor(["Blue Spice is a cafe by the river.", ""], references) < 100
