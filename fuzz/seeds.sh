#!/usr/bin/env bash
# Small valid files to start from.
set -euo pipefail
cd "$(dirname "$0")"
tests=../tests
mkdir -p corpus/{prompt,picture,png_text,webdataset,parquet,lists,model_config,tokenizer,safetensors,pickle}
cp "$tests"/pictures/* corpus/picture/
cp "$tests"/pictures/*.png corpus/png_text/
cp "$tests"/shards/*.tar corpus/webdataset/
cp "$tests"/shards/*.parquet corpus/parquet/
cp "$tests"/shards/metadata.jsonl corpus/lists/
printf '%s' '{"images": [{"id": 1, "file_name": "a.png"}], "annotations": [{"id": 1, "image_id": 1, "caption": "a"}]}' \
    > corpus/lists/captions.json
printf '%064d  a.png\n' 0 > corpus/lists/SHA256SUMS
printf 'Deblur with sigma 3.0; Upsample to 6.0x; Denoise with sigma 0.06; Dejpeg with quality 80' > corpus/prompt/all

layouts=$tests/layouts
for config in "$layouts"/tiny*/{unet,vae,text_encoder,scheduler}/*config.json ../assets/tiny/{control,image_encoder}/config.json; do
    cp "$config" "corpus/model_config/$(echo "${config#../}" | tr / -)"
done
# A few merges: the whole vocabulary would be too large to change anything in.
letters='{"a": 0, "b": 1, "a</w>": 2, "b</w>": 3, "ab</w>": 4, "<|startoftext|>": 5, "<|endoftext|>": 6}'
printf '%s\0#version: 0.2\na b</w>\n' "$letters" > corpus/tokenizer/vocab-and-merges
printf '{"model": {"type": "BPE", "unk_token": "<|endoftext|>", "end_of_word_suffix": "</w>", "vocab": %s, "merges": ["a b</w>"]}}' \
    "$letters" > corpus/tokenizer/tokenizer.json
header='{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]}}'
printf "\\x$(printf %x ${#header})\\0\\0\\0\\0\\0\\0\\0%s" "$header" > corpus/safetensors/two
head -c 12 /dev/zero >> corpus/safetensors/two
cp "$layouts"/tiny1/text_encoder/pytorch_model.bin corpus/pickle/
