"""Case `tokenizer`: open_clip's byte-pair encoding."""

import json
from importlib.metadata import version
from pathlib import Path

from numpy.random import Generator
from open_clip.tokenizer import SimpleTokenizer

import bundle
from bundle import choice, whole

CONTEXT = 77
WORDS = (
    "a the panda bamboo photograph of sitting by unbelievably street-light it's they've don't 35mm f/1.8 3.14 10% #tag "
    "@name e.g. C++ naïve café ÅNGSTRÖM Straße İstanbul русский ελληνικά עברית العربية हिन्दी 日本語 中文 한국어 ไทย "
    "🐼 👩‍👩‍👧 ❤️ ½ Ⅷ ² ﬁne １２３ “quoted” ‘single’ — … &amp; &lt;b&gt; &nbsp; <br/> cafÃ© â€œoddâ€\u009d \\n ^_^ :) "
    "_under_score_ x=1;y=[2,3] <|endoftext|> antidisestablishmentarianism"
).split(" ")
SPACES = " ", " ", " ", "  ", "\t", "\n", "\u00a0", "\u3000", ""


def restoration_prompt(random: Generator) -> str:
    steps = (
        f"Deblur with sigma {random.uniform(0.2, 5):.1f}",
        f"Upsample to {random.uniform(1, 8):.1f}x",
        f"Denoise with sigma {random.uniform(0.01, 0.3):.2f}",
        f"Dejpeg with quality {whole(random, 20, 95)}",
    )
    kept = [step if choice(random, True, False) else step.split()[0] for step in steps if choice(random, True, False)]
    return "; ".join(kept) or "Remove all degradation"


def words(random: Generator, count: int) -> str:
    return "".join(choice(random, *WORDS) + choice(random, *SPACES) for _ in range(count))


def letters(random: Generator, count: int) -> str:
    """Random characters of the basic plane that a file can contain."""
    drawn = (whole(random, 0x20, 0xFFFF) for _ in range(count))
    return "".join(chr(letter) for letter in drawn if not 0xD800 <= letter < 0xE000)


def tokenizer(out: Path, random: Generator) -> None:
    texts = [""]
    texts += [restoration_prompt(random) for _ in range(10)]
    texts += [words(random, whole(random, 1, 12)) for _ in range(60)]
    texts += [letters(random, whole(random, 1, 12)) for _ in range(20)]
    texts.append(words(random, 100))
    encode = SimpleTokenizer(context_length=CONTEXT)
    prompts = []
    for text in texts:
        ids = encode(text)[0].tolist()
        prompts.append({"text": text, "ids": ids[: ids.index(encode.eot_token_id) + 1]})
    folder = out / "case-tokenizer"
    source = (
        f"open_clip {version('open_clip_torch')} SimpleTokenizer, ftfy {version('ftfy')}, context {CONTEXT}; "
        "ids without padding, start and end tokens included, cut to the context"
    )
    bundle.case(folder, "tokenizer", tolerance=0, source=source)
    (folder / "prompts.json").write_text(json.dumps(prompts))
