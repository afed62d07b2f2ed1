"""Small files laid out as ir_datasets keeps them below its home folder, in the forms in which they are published."""

import gzip
import hashlib
import io
import json
import tarfile
import zipfile

from retrieval_kd.data.weights import TINY_WORDS

WORDS = TINY_WORDS.split()
WORDS = WORDS[WORDS.index("city") :]  # those before are stop words, or about code
PASSAGES = 30
# What MS MARCO's lines hold: right characters, broken ones, both in one line, and what only looks broken.
BROKEN = {
    3: ("a cafÃ© and a café", "a café and a café"),
    4: ("quotes â€œhereâ€\u009d and â\u0080\u0094 there", "quotes â€œhereâ€\u009d and — there"),
    5: ("Ã alone, Â£5, Ã\u00a0 and ÃÃ©", "Ã alone, £5, à and Ãé"),
    6: ("a face ð\u009f\u0098\u0080 and 東京", "a face \U0001f600 and 東京"),
}


def text(row):
    """Six words that only this row has together."""
    return " ".join(WORDS[(row * 5 + place * 7) % len(WORDS)] for place in range(6))


def question(row):
    return " ".join(text(row).split()[1:4])


def tar_gz(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content.encode())
            archive.addfile(info, io.BytesIO(content.encode()))
    return path


def lines(rows):
    return "".join("\t".join(map(str, row)) + "\n" for row in rows)


def plain(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def write_msmarco(home):
    """Queries 100 + i ask for passage i; some of each file have no judgement."""
    folder = home / "msmarco-passage"
    collection = [(row, BROKEN.get(row, (text(row),))[0]) for row in range(PASSAGES)]
    asked = {
        part: range(*rows)
        for part, rows in {"train": (0, 12), "dev": (12, 18), "dl19": (18, 22), "dl20": (22, 26)}.items()
    }
    queries = {part: lines((100 + row, question(row)) for row in rows) for part, rows in asked.items()}
    tsv = {part: lines((100 + row, 0, row, 1) for row in list(rows)[:-1]) for part, rows in asked.items()}
    trec = {
        part: "".join(f"{100 + row} Q0 {row} 2\n{100 + row} 0 1 0\n" for row in list(asked[part])[:-1])
        for part in ("dl19", "dl20")
    }
    archive = {
        "collection.tsv": lines(collection),
        "qrels.dev.small.tsv": tsv["dev"],
        "queries.dev.small.tsv": queries["dev"],
    }
    return {
        ("msmarco-passage", "collectionandqueries"): tar_gz(folder / "collectionandqueries.tar.gz", archive),
        ("msmarco-passage", "queries"): tar_gz(
            folder / "queries.tar.gz", {"queries.dev.tsv": queries["dev"], "queries.train.tsv": queries["train"]}
        ),
        ("msmarco-passage", "train/qrels"): plain(folder / "train/qrels", tsv["train"]),
        ("msmarco-passage", "trec-dl-2019/qrels"): plain(folder / "trec-dl-2019/qrels", trec["dl19"]),
        ("msmarco-passage", "trec-dl-2020/qrels"): plain(folder / "trec-dl-2020/qrels", trec["dl20"]),
        ("msmarco-passage", "trec-dl-2020/queries"): plain(
            folder / "trec-dl-2020/queries.tsv.gz", gzip.compress(queries["dl20"].encode())
        ),
        "trec-dl-2019/queries": plain(
            folder / "trec-dl-2019/queries.tsv", queries["dl19"]
        ),  # unpacked: all that is kept
    }


def beir_members(folder, splits=("test",), passages=PASSAGES, metadata=None):
    """corpus.jsonl, queries.jsonl and the judgements of each split, every one of four queries."""
    corpus = [
        {"_id": f"d{row}", "title": f"t{row}" if row % 2 else "", "text": text(row), "metadata": metadata or {}}
        for row in range(passages)
    ]
    queries = [{"_id": f"q{row}", "text": question(row), "metadata": metadata or {}} for row in range(passages)]
    members = {
        f"{folder}/corpus.jsonl": "".join(json.dumps(record) + "\n" for record in corpus),
        f"{folder}/queries.jsonl": "".join(json.dumps(record) + "\n" for record in queries),
    }
    for number, split in enumerate(splits):
        judged = lines((f"q{row}", f"d{row}", 1 + row % 2) for row in range(4 * number, 4 * number + 4))
        members[f"{folder}/qrels/{split}.tsv"] = "query-id\tcorpus-id\tscore\n" + judged
    return members


def write_zip(path, members):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def write_beir(home):
    """A set with two splits, one with a single split, MS MARCO's own, and all forums."""
    forums = [
        "android",
        "english",
        "gaming",
        "gis",
        "mathematica",
        "physics",
        "programmers",
        "stats",
        "tex",
        "unix",
        "webmasters",
        "wordpress",
    ]
    cqa = {}
    for number, forum in enumerate(forums):
        cqa |= beir_members(f"cqadupstack/{forum}", passages=8 + number, metadata={"tags": []})
    return {
        ("beir", "scifact"): write_zip(home / "beir/scifact/source.zip", beir_members("scifact", ("train", "test"))),
        ("beir", "arguana"): write_zip(home / "beir/arguana/source.zip", beir_members("arguana")),
        ("beir", "msmarco"): write_zip(
            home / "beir/msmarco/source.zip", beir_members("msmarco", ("train", "dev", "test"))
        ),
        ("beir", "webis-touche2020/v2"): write_zip(
            home / "beir/webis-touche2020/v2/source.zip",
            beir_members("webis-touche2020", metadata={"stance": "", "url": "", "description": "", "narrative": ""}),
        ),
        ("beir", "cqadupstack"): write_zip(home / "beir/cqadupstack/source.zip", cqa),
    }


def write_lotte(home):
    members = {}
    for topic in ("writing", "recreation", "science", "technology", "lifestyle", "pooled"):
        for part in ("dev", "test"):
            folder = f"lotte/{topic}/{part}"
            members[f"{folder}/collection.tsv"] = lines((row, f"{part} {text(row)}") for row in range(12))
            for shift, kind in enumerate(("search", "forum")):
                rows = range(shift, 8, 2)
                members[f"{folder}/questions.{kind}.tsv"] = lines((row, question(row)) for row in rows)
                answers = ({"qid": row, "query": question(row), "answer_pids": [row, row + 1]} for row in rows)
                members[f"{folder}/qas.{kind}.jsonl"] = "".join(json.dumps(answer) + "\n" for answer in answers)
    return {("lotte", "source"): tar_gz(home / "lotte/lotte.tar.gz", members)}


WIKI = [
    ("1", '"Aaron is a ""prophet"" and the brother of Moses."', "Aaron"),
    ("2", "The café in Zürich opened in 1912.", '"Café ""Odeon"""'),
    ("3", '"Nothing of note happened here."', "Zürich"),
    ("4", "He wrote 3.14 symphonies", "Pi"),
]


def write_questions(home):
    folder = home / "dpr-w100"
    passages = "id\ttext\ttitle\n" + lines(WIKI)

    def context(number, score=1000):
        return {"passage_id": number, "psg_id": number, "title": "", "text": "", "score": score}

    records = [
        {
            "question": "who was aaron's brother",
            "answers": ["Moses"],
            "positive_ctxs": [context("1"), context("2", 7.5)],
            "hard_negative_ctxs": [context("3", 5.0)],
            "negative_ctxs": [context("4", 0.0)],
        },
        {
            "question": "a question\twithout a positive",
            "answers": ["nothing", "none"],
            "positive_ctxs": [],
            "hard_negative_ctxs": [context("3", 5.0)],
            "negative_ctxs": [],
        },
    ]
    packed = gzip.compress(json.dumps(records, indent=4).encode())
    test = lines(
        [
            ("who was aaron's brother", ["moses", "Moses ben Amram"]),
            ("where is the café", ["Zürich"]),
            ("what happened", ["happened there"]),
        ]
    )
    found = {
        ("dpr-w100", "docs"): plain(folder / "docs.tsv.gz", gzip.compress(passages.encode())),
        **{
            ("dpr-w100", f"{key}"): plain(folder / f"{key}.json.gz", packed)
            for key in ("nq-train", "nq-dev", "tqa-dev")
        },
        "nq-test": plain(folder / "nq-test.qa.csv", test),
        "trivia-test": plain(folder / "trivia-test.qa.csv.gz", gzip.compress(test.encode())),
    }
    return found


def make_home(home):
    """Write everything, and let ir_datasets' list name these files' sizes and checksums."""
    import ir_datasets

    from retrieval_kd.data import open_questions

    open_questions.SETS.update({name: asked._replace(questions=3) for name, asked in open_questions.SETS.items()})
    written = write_msmarco(home) | write_beir(home) | write_lotte(home) | write_questions(home)
    entries = ir_datasets.util.DownloadConfig.contents()
    for key, path in written.items():
        if isinstance(key, tuple):
            content = path.read_bytes()
            entries[key[0]][key[1]] |= {
                "size_hint": len(content),
                "expected_md5": hashlib.md5(content).hexdigest(),
                "url": f"http://127.0.0.1:9/{path.name}",  # nobody listens there
            }
    return home
