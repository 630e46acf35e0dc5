"""METEOR (Denkowski and Lavie 2014) by its authors' own Java program, which brings its synonyms and paraphrases along.

Nothing else is METEOR: its value depends on those tables and on tuned weights, so there is no version of our own.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from splitcom.errors import ConfigError
from splitcom.metrics.base import check_texts


@dataclass(frozen=True)
class Meteor:
    """The metric as worked out by `jar` (meteor-1.5.jar) under the program `java`; `timeout_s` bounds one call."""

    jar: Path
    java: str = "java"
    timeout_s: float = 1800.0

    def check(self) -> None:
        """Raise ConfigError unless jar and java are there."""
        if not self.jar.is_file():
            raise ConfigError(f"meteor: {self.jar} is no file; valid: the official meteor-1.5.jar with data/ beside it")
        if shutil.which(self.java) is None:
            raise ConfigError(f"meteor: no program {self.java} on PATH; valid: a Java runtime")

    def __call__(self, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
        """Corpus METEOR 1.5 for English in percent, in [0, 100], texts normalized by the program itself (`-norm`).

        Raises ValueError unless every hypothesis has a reference, ConfigError when the program is missing or fails.
        """
        check_texts(hypotheses, references)
        self.check()
        # The program wants equally many references for all. It takes the best one, so a repeated one changes nothing.
        width = max(len(texts) for texts in references)
        padded = [text for texts in references for text in [*texts, *[texts[-1]] * (width - len(texts))]]
        with tempfile.TemporaryDirectory(prefix="splitcom-meteor-") as folder:
            files = []
            for name, texts in (("hypotheses", hypotheses), ("references", padded)):
                files.append(Path(folder, name))
                files[-1].write_text("".join(f"{_line(text)}\n" for text in texts), encoding="utf-8")
            output = self._run([*map(str, files), "-l", "en", "-norm", "-r", str(width)])
        found = re.search(r"^Final score:\s*([0-9.]+(?:[eE]-?\d+)?)\s*$", output, re.MULTILINE)
        if found is None:
            raise ConfigError(f"meteor: {self.jar} told no score; valid: the official meteor-1.5.jar")
        return 100 * float(found[1])

    def _run(self, arguments: Sequence[str]) -> str:
        command = [self.java, "-Xmx2G", "-Dfile.encoding=UTF-8", "-jar", str(self.jar), *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, encoding="utf-8", errors="replace", timeout=self.timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise ConfigError(f"meteor: {self.jar} did not end within {self.timeout_s:g} s") from None
        except OSError as error:
            raise ConfigError(f"meteor: {self.java}: {error.strerror}; valid: a Java runtime") from None
        if done.returncode:
            said = (done.stderr.strip() or done.stdout.strip() or "nothing was said").splitlines()[0]
            raise ConfigError(f"meteor: {self.java} ended with status {done.returncode}: {said}")
        return done.stdout


def _line(text: str) -> str:
    return " ".join(text.split())
