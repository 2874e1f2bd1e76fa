"""Completion in real shells: in bash always, in zsh and fish where they are installed."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from convolab_worker.cli.main import COMMANDS, main

CASES = {
    "convolab-worker sta": ["status"],
    "convolab-worker ": [*COMMANDS],
    "convolab-worker jobs ": ["list", "show", "retry", "remove", "promote"],
    "convolab-worker failed r": ["retry", "remove"],
    "convolab-worker jobs list --sta": ["--state"],
    "convolab-worker jobs list --name list --state f": ["failed"],
    "convolab-worker queue clean --state d": ["delayed"],
    "convolab-worker status --log-level ": ["debug", "info", "warning", "error", "critical"],
    "convolab-worker completion ": ["bash", "zsh", "fish"],
    "convolab-worker cancel ru": [],
    "convolab-worker run -c ": [],
    "convolab-worker cost --prices /etc/passw": ["/etc/passwd"],
}
SHELLS = [shell for shell in ("bash", "zsh", "fish") if shutil.which(shell)]


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Return the script for a shell, as the command prints it."""
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shell_reads_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The options' texts have every quote that shells mind."""
    text = script(shell, capsys)

    done = subprocess.run([shell, "-n"], input=text, capture_output=True, text=True, check=True)

    assert done.stderr == ""


@pytest.mark.parametrize("shell", [shell for shell in SHELLS if shell != "zsh"])
def test_a_shell_completes_commands_actions_options_and_their_values(
    shell: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the shell itself answers a press of Tab; zsh answers only at a terminal."""
    asked = script(shell, capsys)
    for line in CASES:
        if shell == "fish":
            asked += f'complete -C "{line}" | string split -f 1 \\t; echo ---\n'
            continue
        words = " ".join(line.split()) + (" ''" if line.endswith(" ") else "")
        asked += f"COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); "
        asked += '_convolab_worker; printf "%s\\n" "${COMPREPLY[@]}" ---\n'

    done = subprocess.run([shell], input=asked, capture_output=True, text=True, check=True)

    assert done.stderr == ""
    answers = [part.split() for part in done.stdout.split("---\n")[:-1]]
    for (line, expected), answer in zip(CASES.items(), answers, strict=True):
        found = [word for word in answer if word != "/etc/passwd-"]
        assert sorted(found) == sorted(expected), line


def test_bash_completes_a_value_behind_an_equals_sign(capsys: pytest.CaptureFixture[str]) -> None:
    """Readline makes three words of it."""
    asked = script("bash", capsys)
    for words in ("--log-level =", "--log-level = d"):
        asked += f"COMP_WORDS=(convolab-worker status {words}); "
        asked += "COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); "
        asked += '_convolab_worker; echo "${COMPREPLY[@]}"\n'

    done = subprocess.run(["bash"], input=asked, capture_output=True, text=True, check=True)

    assert done.stdout == "debug info warning error critical\ndebug\n"
