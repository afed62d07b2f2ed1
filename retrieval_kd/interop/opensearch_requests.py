"""Bodies of the requests that make and ask an OpenSearch index of sparse representations."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

RANK_FEATURES, SPARSE_VECTOR = "rank_features", "sparse_vector"
TEXT, TERMS = "passage_text", "passage_terms"
# What heavier weights are cut to when they become bytes; the cluster's defaults where ours are smaller.
INGEST_CEILING, SEARCH_CEILING = 3.0, 16.0
# Tokens of a query that are looked up, the heaviest first: more than queries have.
QUERY_TOKENS = 64
MODEL_ID = "MODEL_ID"
PAGE = """# {index}: an OpenSearch bundle

Everything here comes from one trained student: passages were encoded by it, queries need no model, only tokens and the
weights of its table. A score is the sum over a query's distinct tokens of query weight times passage weight.

| file | what it is |
| --- | --- |
| `idf.json`, `query_token_weights.txt` | the table: weight by token, {entries:,} of them |
| `tokenizer.zip` | tokenizer and `idf.json`, for a cluster that makes a query's tokens itself |
| `register_tokenizer.json` | registration of that archive |
| `FIELD/index.json` | settings and mapping of an index for FIELD: {fields} |
| `FIELD/bulk-*.ndjson` | the passages, in files that fit one request each |
| `FIELD/query.json` | an example query as tokens and weights |
| `FIELD/query_by_text.json` | the same query as text |

`rank_features` is exact up to Lucene's rounding (a weight keeps about three digits) and needs OpenSearch 2.17;
`sparse_vector` is approximate from a million passages per segment on, rounds weights to bytes and needs 3.3.
The calls follow the documentation of OpenSearch 3.3. They are for one field; with both, name two indexes.

```bash
HOST=http://localhost:9200 FIELD={field} INDEX={index}
JSON='content-type: application/json'

# 1. the index
curl -sX PUT "$HOST/$INDEX" -H "$JSON" --data-binary @$FIELD/index.json

# 2. the passages; each answer must say "errors":false
for part in $FIELD/bulk-*.ndjson; do
  curl -sX POST "$HOST/$INDEX/_bulk?filter_path=errors" -H 'content-type: application/x-ndjson' --data-binary @$part
done
curl -sX POST "$HOST/$INDEX/_refresh"

# 3. a query by tokens and weights
curl -sX POST "$HOST/$INDEX/_search" -H "$JSON" --data-binary @$FIELD/query.json
```

Queries by text, tokenized by the cluster with this table: put `tokenizer.zip` where the cluster can read it, write that
address into `register_tokenizer.json`, then

```bash
curl -sX PUT "$HOST/_cluster/settings" -H "$JSON" -d '{{"persistent": {{"plugins.ml_commons.only_run_on_ml_node": false,
  "plugins.ml_commons.allow_registering_model_via_url": true}}}}'
curl -sX POST "$HOST/_plugins/_ml/models/_register?deploy=true" -H "$JSON" --data-binary @register_tokenizer.json
curl -s "$HOST/_plugins/_ml/tasks/TASK_ID"   # the answer before has the task, this one the model's id
sed -i s/{model}/THE_ID/ $FIELD/query_by_text.json
curl -sX POST "$HOST/$INDEX/_search" -H "$JSON" --data-binary @$FIELD/query_by_text.json
```

The analyzer `bert-uncased` of OpenSearch 3.1 (`"analyzer": "bert-uncased"` in place of `model_id`) has a table of its
own: that of its English document models, from MS MARCO. Its scores are ours only if the student was trained with that
table and vocabulary.
{prompt}"""


def index_request(field: str, largest_passage_weight: float, largest_query_weight: float) -> dict[str, Any]:
    """Settings and mapping; ``sparse_vector`` quantises, so its range must hold the weights that there are."""
    terms: dict[str, Any] = {"type": field}
    settings: dict[str, Any] = {}
    if field == SPARSE_VECTOR:
        ceilings = {
            "quantization_ceiling_ingest": max(INGEST_CEILING, largest_passage_weight),
            "quantization_ceiling_search": max(SEARCH_CEILING, largest_query_weight),
        }
        settings = {"settings": {"index": {"sparse": True}}}
        terms["method"] = {"name": "seismic", "parameters": ceilings}
    return settings | {"mappings": {"properties": {TEXT: {"type": "text"}, TERMS: terms}}}


def query_request(field: str, weights: Mapping[str, float]) -> dict[str, Any]:
    """A query whose terms and weights are given."""
    return _query(field, {"query_tokens": dict(weights)})


def text_query_request(field: str, text: str) -> dict[str, Any]:
    """A query that the cluster tokenizes and weighs by the archive's table."""
    return _query(field, {"query_text": text, "model_id": MODEL_ID})


def _query(field: str, given: dict[str, Any]) -> dict[str, Any]:
    if field == SPARSE_VECTOR:
        given |= {"method_parameters": {"k": 10, "top_n": QUERY_TOKENS, "heap_factor": 1.0}}
    return {"size": 10, "_source": [TEXT], "query": {"neural_sparse": {TERMS: given}}}


def register_request(name: str, archive: Path) -> dict[str, Any]:
    """Registration of the archive with tokenizer and weights; its address is the user's to fill in."""
    return {
        "name": f"{name}-query-tokenizer",
        "version": "1.0.0",
        "description": "Tokens of a query with the weights of the student's table",
        "function_name": "SPARSE_TOKENIZE",
        "model_format": "TORCH_SCRIPT",
        "model_content_size_in_bytes": archive.stat().st_size,
        "model_content_hash_value": hashlib.sha256(archive.read_bytes()).hexdigest(),
        "url": f"file:///PATH/{archive.name}",
    }


def readme(index: str, fields: Sequence[str], entries: int, prompt: str) -> str:
    """The page that lies in the bundle."""
    told = f"\nQueries were trained with {prompt!r} in front of their text; whoever asks by text must put it there.\n"
    return PAGE.format(
        index=index,
        fields=", ".join(f"`{field}`" for field in fields),
        field=fields[0],
        entries=entries,
        model=MODEL_ID,
        prompt=told if prompt else "",
    )
