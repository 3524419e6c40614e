"""``nfnl record``: recordings of kernels and programs, for tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click

from nfnl.errors import NfnlError

SCENARIOS = Path("fixtures/scenarios.toml")


@click.command()
@click.option(
    "--scenarios",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    default=SCENARIOS,
    show_default=True,
    help="The file that says what is played.",
)
@click.option("--kernel", metavar="PATH|SUITE:PACKAGE", help="Record on this kernel, in a guest; see nfnl lab run.")
@click.argument("names", nargs=-1)
def command(scenarios: Path, kernel: str | None, names: tuple[str, ...]) -> None:
    """Play scenarios (default: all) in a throw-away namespace, and write what the kernel and other programs say.

    A recording goes to SUBSYSTEM/recorded/KERNEL/NAME.txt beside the file of scenarios. Nothing that nfnl has encoded is in it. The
    exit status is 1 when a scenario could not be played; the others are written all the same.

    \b
    Examples:
      nfnl record
      nfnl record --kernel bookworm:linux-image-cloud-amd64 flow-created
    """
    sys.exit(in_a_guest(scenarios, kernel, names) if kernel else here(scenarios, names))


def in_a_guest(scenarios: Path, kernel: str, names: tuple[str, ...]) -> int:
    """The same command, on another kernel."""
    from nfnl.cli.lab import tell
    from nfnl.testing import guest

    words = [sys.executable, "-c", "from nfnl.cli import main; main()", "record", "--scenarios", str(scenarios), *names]
    try:
        return guest.run(guest.find_kernel(kernel, tell), words, share=scenarios.parent, tell=tell)
    except NfnlError as error:
        tell(str(error))
        return 1


def here(scenarios: Path, names: tuple[str, ...]) -> int:
    """On the present kernel."""
    from nfnl.testing import _record

    try:
        known = {scenario.name: scenario for scenario in _record.load(scenarios)}
    except NfnlError as error:
        raise click.ClickException(str(error)) from error
    if unknown := set(names) - known.keys():
        raise click.BadParameter(f"no scenario is called {', '.join(sorted(unknown))}")
    failed = 0
    for name in names or known:
        scenario = known[name]
        try:
            heard = _record.record(scenario)
        except (NfnlError, OSError) as error:
            click.echo(f"{name}: {error}", err=True)
            failed += 1
            continue
        place = scenarios.parent / scenario.subsystem / "recorded" / _record.kernel_name() / f"{name}.txt"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_record.text(scenario, heard, [_version(program) for program in scenario.programs]), encoding="utf-8")
        click.echo(f"{name}: {len(heard)} datagram{'s' * (len(heard) != 1)}, {place}")
    return 1 if failed else 0


def _version(program: str) -> str:
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).splitlines()[0]
