#!/usr/bin/env bash
# Small valid files to start from.
set -euo pipefail
cd "$(dirname "$0")"
tests=../tests
mkdir -p corpus/{prompt,picture,png_text,webdataset,parquet,lists}
cp "$tests"/pictures/* corpus/picture/
cp "$tests"/pictures/*.png corpus/png_text/
cp "$tests"/shards/*.tar corpus/webdataset/
cp "$tests"/shards/*.parquet corpus/parquet/
cp "$tests"/shards/metadata.jsonl corpus/lists/
printf '%s' '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}' \
    > corpus/lists/captions.json
printf '%064d  a.png\n' 0 > corpus/lists/SHA256SUMS
printf 'Deblur with sigma 3.0; Upsample to 6.0x; Denoise with sigma 0.06; Dejpeg with quality 80' > corpus/prompt/all
