"""The command `generate-schemas`: models of the shared collections from published JSON Schemas.

Without `--source`, a version that is pinned under `packages/models/schemas/` is generated offline,
and any other is downloaded from the releases of jarvis-api and pinned.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from packages.models.generator import folder, pins
from packages.models.generator.differences import differences
from packages.models.generator.download import DownloadLimits
from packages.models.generator.errors import GenerationError
from packages.models.generator.pipeline import PINNED_SCHEMAS, generated, modules_of
from packages.models.generator.releases import Files, normalised_version
from packages.models.generator.sources import SchemaSource, files_of
from packages.models.version import SCHEMA_VERSION

OUTPUT = Path(__file__).resolve().parent.parent / "_generated"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code. Failures are one line on stderr."""
    arguments = _parser().parse_args(argv)
    try:
        _run(arguments)
    except GenerationError as exc:
        print(f"generate-schemas: {exc}", file=sys.stderr)
        return 1
    except OSError as exc:
        reason = exc.strerror or type(exc).__name__
        print(f"generate-schemas: {exc.filename or arguments.output}: {reason}", file=sys.stderr)
        return 1
    return 0


def _run(arguments: argparse.Namespace) -> None:
    output: Path = arguments.output
    version = normalised_version(
        arguments.version or folder.found_version(output) or SCHEMA_VERSION
    )
    source = SchemaSource(
        version=version,
        place=arguments.source,
        schemas=arguments.schemas,
        is_said=arguments.version is not None,
        token=os.environ.get("GITHUB_TOKEN"),  # noqa: TID251 - settings need a configured system
        limits=DownloadLimits(total_seconds=arguments.timeout_seconds),
    )
    found = files_of(source, print)
    files = generated(version, found.files)
    if arguments.check:
        folder.require_same(output, files)
        print(f"{output} is up to date with {version}")
        return
    if found.is_new:
        _report_differences(arguments.schemas, version, found.files)
        for name in pins.changed_pins(arguments.schemas, version, found.files):
            print(f"{name} of {version} was pinned with other content; replaced")
        pins.write_pinned(arguments.schemas, version, found.files)
        print(f"pinned {version} in {arguments.schemas / version}")
    folder.write(output, files)
    print(f"generated {version} in {output}")
    if version != SCHEMA_VERSION:
        print(f"this program expects {SCHEMA_VERSION} and will not start with {version}")


def _report_differences(schemas: Path, version: str, files: Files) -> None:
    """Print what *files* change against the pin that they replace, or else the newest one."""
    others = [name for name in pins.pinned_versions(schemas) if name != version]
    last = version if pins.is_pinned(schemas, version) else next(iter(others), None)
    if last is None:
        return
    try:
        former = modules_of(pins.read_pinned(schemas, last))
    except GenerationError as exc:
        print(f"not compared with the pinned {last}: {exc}")
        return
    found = differences(former, modules_of(files))
    print(f"against the pinned {last}:" if found else f"no field differs from the pinned {last}")
    for line in found:
        print(f"  {line}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="generate-schemas", description=__doc__)
    parser.add_argument(
        "--version",
        help="release such as v0.0.31; default: .schema-version of the output folder, "
        f"else {SCHEMA_VERSION}",
    )
    parser.add_argument(
        "--source",
        metavar="DIR|URL",
        help="take the files from here and pin them; https only, or http on loopback",
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the output is not up to date"
    )
    parser.add_argument("--output", type=Path, default=OUTPUT, help=f"default: {OUTPUT}")
    parser.add_argument(
        "--schemas", type=Path, default=PINNED_SCHEMAS, help="folder of the pinned schemas"
    )
    parser.add_argument(
        "--timeout-seconds", type=float, default=120.0, help="longest wait for a whole download"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
