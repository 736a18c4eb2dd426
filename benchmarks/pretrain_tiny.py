"""Pre-train `clipfit-tiny` from scratch on clean drawings and write the package's weight file and its card.

python benchmarks/pretrain_tiny.py --out clipfit_cli/assets/clipfit-tiny.safetensors
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.model import CLIP
from open_clip.transformer import PatchDropout
from safetensors.torch import save_file
from torch import Tensor

from clipfit_cli.data.builtin.textures import CLASS_NAMES, COLOURS, SIZE, TEXTURE_SETS, VERSION, draw, textures_dataset
from clipfit_cli.models.tiny import EMBEDDING, IDS, ROWS, TINY_CONFIG, build_tiny, tiny_weights_path

COLOUR_NAMES = tuple(COLOURS)
IMAGE_SIZE = int(TINY_CONFIG["vision_cfg"]["image_size"])
CONTEXT = int(TINY_CONFIG["text_cfg"]["context_length"])
MEAN = torch.tensor(open_clip.OPENAI_DATASET_MEAN).view(3, 1, 1)
STD = torch.tensor(open_clip.OPENAI_DATASET_STD).view(3, 1, 1)

PATTERN_CAPTIONS = (
    "{p}",
    "a photo of a {p} texture.",
    "a {p} texture",
    "a {p} pattern",
    "a picture of a {p} surface.",
    "a drawing of a {p} texture.",
    "this is a {p} texture.",
    "something {p}",
    "a photo of {p}.",
    "a photo of a {p}.",
)
FULL_CAPTIONS = (
    "{c} {p}",
    "a {c} {p} texture",
    "a photo of a {c} {p} texture.",
    "a {p} texture in {c}.",
    "a {p} pattern, {c}",
    "a picture of a {c} {p} surface.",
)
COLOUR_CAPTIONS = ("{c}", "a {c} texture", "a photo of something {c}.", "a {c} picture")


@dataclass(frozen=True)
class Pool:
    """Drawings with their pattern and colour numbers: images (n, 3, SIZE, SIZE) uint8, the rest (n,)."""

    images: Tensor
    patterns: Tensor
    colours: Tensor


def _draw_many(job: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return `count` clean drawings of every colour of one pattern: (count * colours, SIZE, SIZE, 3)."""
    seed, pattern, count = job
    rng = np.random.Generator(np.random.PCG64((seed, pattern)))
    images = [draw(CLASS_NAMES[pattern], "clean", rng, colour) for colour in COLOUR_NAMES for _ in range(count)]
    return np.stack(images)


def draw_pool(seed: int, count: int, workers: int) -> Pool:
    """Return `count` clean drawings of every pattern in every colour."""
    jobs = [(seed, pattern, count) for pattern in range(len(CLASS_NAMES))]
    with ProcessPoolExecutor(workers) as executor:
        parts = list(executor.map(_draw_many, jobs))
    per_pattern = len(COLOUR_NAMES) * count
    return Pool(
        torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).contiguous(),
        torch.arange(len(CLASS_NAMES)).repeat_interleave(per_pattern),
        torch.arange(len(COLOUR_NAMES)).repeat_interleave(count).repeat(len(CLASS_NAMES)),
    )


def augment(images: Tensor, generator: torch.Generator, least_scale: float) -> Tensor:
    """Return normalised random crops (batch, 3, IMAGE_SIZE, IMAGE_SIZE) of uint8 drawings, half of them flipped."""
    batch = len(images)

    def uniform(low: float, high: float) -> Tensor:
        return torch.rand(batch, generator=generator) * (high - low) + low

    area, ratio = uniform(least_scale, 1.0), torch.exp(uniform(math.log(0.8), math.log(1.25)))
    wide, tall = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    flip = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    theta = torch.zeros(batch, 2, 3)
    theta[:, 0, 0], theta[:, 1, 1] = wide * flip, tall
    theta[:, 0, 2], theta[:, 1, 2] = (1 - wide) * uniform(-1, 1), (1 - tall) * uniform(-1, 1)
    grid = F.affine_grid(theta, [batch, 3, IMAGE_SIZE, IMAGE_SIZE], align_corners=False)
    crops = F.grid_sample(images.float() / 255, grid, padding_mode="reflection", align_corners=False)
    return normalise(crops + 0.02 * torch.randn(crops.shape, generator=generator))


def normalise(images: Tensor) -> Tensor:
    """Return images (batch, 3, height, width), 0 to 1, in the units the tower expects."""
    return (images - MEAN) / STD


def whole(images: Tensor) -> Tensor:
    """Return uint8 drawings as the tower sees them in evaluation: resized, normalised."""
    resized = F.interpolate(images.float() / 255, size=IMAGE_SIZE, mode="bicubic", antialias=True)
    return normalise(resized.clamp(0, 1))


class Captions:
    """Draws captions for drawings and remembers every token used."""

    def __init__(self, rng: np.random.Generator) -> None:
        """Keep the random source."""
        self._rng = rng
        self._tokenize = open_clip.SimpleTokenizer(context_length=CONTEXT)
        self._cache: dict[str, Tensor] = {}

    def tokens(self, texts: list[str]) -> Tensor:
        """Return token ids (texts, longest caption): the tower is causal, so padding may be left out."""
        for text in texts:
            if text not in self._cache:
                self._cache[text] = self._tokenize([text])[0]
        stacked = torch.stack([self._cache[text] for text in texts])
        return stacked[:, : int(stacked.count_nonzero(1).max())]

    def write(self, patterns: list[int], colours: list[int]) -> list[str]:
        """Return a caption per pair of pattern and colour number; -1 = not named."""
        texts = []
        for pattern, colour in zip(patterns, colours, strict=True):
            kind = COLOUR_CAPTIONS if pattern < 0 else PATTERN_CAPTIONS if colour < 0 else FULL_CAPTIONS
            template = kind[self._rng.integers(len(kind))]
            texts.append(template.format(p=CLASS_NAMES[pattern], c=COLOUR_NAMES[colour]))
        return texts

    def ids(self) -> list[int]:
        """Return every token id met so far, in order."""
        return sorted({int(i) for row in self._cache.values() for i in row})


def encode_captions(model: CLIP, tokens: Tensor) -> Tensor:
    """Return normalised text features (captions, embed_dim) of token ids (captions, length)."""
    length = tokens.shape[1]
    embedded = model.token_embedding(tokens) + model.positional_embedding[:length]
    hidden = model.transformer(embedded, attn_mask=model.attn_mask[:length, :length])
    ends = model.ln_final(hidden)[torch.arange(len(tokens)), tokens.argmax(1)]
    return F.normalize((ends @ model.text_projection).float(), dim=-1)


def contrastive_loss(image_features: Tensor, text_features: Tensor, truth: Tensor, scale: Tensor) -> Tensor:
    """Return InfoNCE both ways, (), among captions that are all different, so that no negative is false.

    Args:
        image_features: (images, embed_dim), normalised.
        text_features: (captions, embed_dim), normalised; every caption holds for an image at least.
        truth: (images,) which caption holds for an image.
        scale: The logit scale, ().
    """
    logits = scale * image_features @ text_features.T
    by_image = F.cross_entropy(logits, truth)
    shares = F.one_hot(truth, len(text_features)).float()
    by_text = -(shares / shares.sum(0) * logits.log_softmax(0)).sum(0).mean()
    return (by_image + by_text) / 2


def _unique(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return the different numbers, in order, and for each of the given ones its place among them."""
    different, places = np.unique(numbers.numpy(), return_inverse=True)
    return torch.from_numpy(different), torch.from_numpy(places)


def caption_sets(patterns: Tensor, colours: Tensor) -> list[tuple[float, Tensor, Tensor, Tensor]]:
    """Return the three sets of captions of a batch: by pattern alone, by both, by colour alone.

    Returns:
        For each: its weight in the loss, pattern and colour number of every caption (captions,), -1 = not
        named, and which of them holds for an image (batch,).
    """
    both, both_truth = _unique(patterns * len(COLOURS) + colours)
    alone, alone_truth = _unique(patterns)
    hues, hues_truth = _unique(colours)
    return [
        (0.5, alone, torch.full_like(alone, -1), alone_truth),
        (0.4, both // len(COLOURS), both % len(COLOURS), both_truth),
        (0.1, torch.full_like(hues, -1), hues, hues_truth),
    ]


@torch.no_grad()
def zero_shot_pct(model: CLIP, images: Tensor, labels: Tensor, captions: Captions, names: list[str]) -> float:
    """Return accuracy in percent on uint8 images (n, 3, SIZE, SIZE) among the classes of `names`."""
    prompts = [f"a photo of a {name} texture." for name in names]
    text = encode_captions(model, captions.tokens(prompts))
    hits = 0
    for part, truth in zip(torch.split(images, 200), torch.split(labels, 200), strict=True):
        with torch.autocast("cpu", torch.bfloat16):
            features = model.encode_image(whole(part))
        hits += int((F.normalize(features.float(), dim=-1) @ text.T).argmax(1).eq(truth).sum())
    return 100 * hits / len(labels)


def load_tests(name: str, limit: int) -> tuple[Tensor, Tensor]:
    """Return the first `limit` test images of every class, uint8, and their labels."""
    data = textures_dataset(name)
    items = [item for item in data.test if int(item.path[-7:-4]) < limit]
    images = np.stack([np.asarray(data.load_image(item.path)) for item in items])
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.tensor([i.label for i in items])


def report(model: CLIP, tests: dict[str, tuple[Tensor, Tensor]], captions: Captions) -> dict[str, float]:
    """Return zero-shot accuracies: all classes of every test set; base and new half where it is `textures`."""
    names = list(CLASS_NAMES)
    half = (len(names) + 1) // 2
    model.eval()
    numbers = {}
    for key, (images, labels) in tests.items():
        numbers[f"{key}_pct"] = zero_shot_pct(model, images, labels, captions, names)
        if key == "textures":
            base = labels < half
            numbers["base_pct"] = zero_shot_pct(model, images[base], labels[base], captions, names[:half])
            numbers["new_pct"] = zero_shot_pct(model, images[~base], labels[~base] - half, captions, names[half:])
    model.train()
    return {key: round(value, 2) for key, value in numbers.items()}


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Return a linear warm-up over a twentieth of the steps, then a cosine to zero."""
    warm = max(1, steps // 20)
    if step < warm:
        return peak * (step + 1) / warm
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


def batch_loss(model: CLIP, pool: Pool, chosen: Tensor, captions: Captions, images: Tensor) -> Tensor:
    """Return the loss, (), of the chosen drawings (batch,) as augmented `images` and of fresh captions."""
    sets = caption_sets(pool.patterns[chosen], pool.colours[chosen])
    texts = [text for _, p, c, _ in sets for text in captions.write(p.tolist(), c.tolist())]
    with torch.autocast("cpu", torch.bfloat16):
        image_features = model.encode_image(images)
        text_features = encode_captions(model, captions.tokens(texts))
    image_features = F.normalize(image_features.float(), dim=-1)
    loss = torch.zeros(())
    parts = torch.split(text_features, [len(p) for _, p, _, _ in sets])
    for part, (weight, _, _, truth) in zip(parts, sets, strict=True):
        loss = loss + weight * contrastive_loss(image_features, part, truth, model.logit_scale.exp())
    return loss


def train(
    model: CLIP,
    pool: Pool,
    captions: Captions,
    tests: dict[str, tuple[Tensor, Tensor]],
    options: argparse.Namespace,
) -> None:
    """Train the model in place, every pattern equally often in every batch, and print how it goes."""
    start = time.perf_counter()
    generator = torch.Generator().manual_seed(options.seed)
    decayed = [p for p in model.parameters() if p.ndim >= 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    per_pattern = len(pool.images) // len(CLASS_NAMES)
    first = torch.arange(len(CLASS_NAMES)).repeat_interleave(options.batch // len(CLASS_NAMES)) * per_pattern
    total = 0.0
    model.visual.patch_dropout = PatchDropout(options.drop)
    for step in range(options.steps):
        if step == int(0.8 * options.steps):
            model.visual.patch_dropout = torch.nn.Identity()
        chosen = first + torch.randint(per_pattern, (len(first),), generator=generator)
        images = augment(pool.images[chosen], generator, options.scale)
        loss = batch_loss(model, pool, chosen, captions, images)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, options.steps, options.lr)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        total += loss.item()
        if (step + 1) % options.every == 0 or step + 1 == options.steps:
            numbers = report(model, tests, captions)
            seconds = time.perf_counter() - start
            print(f"{step + 1} mean loss {total / (step + 1):.3f} {numbers} {seconds:.0f} s", flush=True)


def save_tiny(model: CLIP, token_ids: list[int], path: Path) -> None:
    """Write the weights as float16, of the token embedding only the rows of `token_ids`."""
    state = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    embedding = state.pop(EMBEDDING)
    ids = torch.tensor(sorted(set(token_ids)))
    save_file({**state, ROWS: embedding[ids].contiguous(), IDS: ids}, path)


def main() -> None:
    """Pre-train, write the weights and the card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=tiny_weights_path())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--batch", type=int, default=156, help="a multiple of the number of patterns")
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--weight-decay", type=float, default=0.1)
    parser.add_argument("--pool", type=int, default=60, help="drawings of every pattern in every colour")
    parser.add_argument("--scale", type=float, default=0.25, help="least area of a random crop")
    parser.add_argument("--drop", type=float, default=0.5, help="share of patches left out until the last fifth")
    parser.add_argument("--every", type=int, default=200, help="steps between two reports")
    options = parser.parse_args()

    start = time.perf_counter()
    torch.manual_seed(options.seed)
    captions = Captions(np.random.Generator(np.random.PCG64(options.seed)))
    pool = draw_pool(options.seed, options.pool, workers=2)
    held_out = draw_pool(options.seed + 10_000, 1, workers=2)
    tests = {"clean": (held_out.images, held_out.patterns), "textures": load_tests("textures", limit=20)}
    print(f"drawn {len(pool.images)} images in {time.perf_counter() - start:.0f} s", flush=True)
    model = CLIP(**TINY_CONFIG)
    train(model, pool, captions, tests, options)
    save_tiny(model, captions.ids(), options.out)

    stored = build_tiny(options.out)
    tests |= {name: load_tests(name, limit=1000) for name in TEXTURE_SETS}
    card = {
        "config": TINY_CONFIG,
        "options": {key: value for key, value in vars(options).items() if key != "out"},
        "train_time_s": round(time.perf_counter() - start),
        "zero_shot": report(stored, tests, captions),
        "parameters": sum(p.numel() for p in stored.parameters()),
        "drawing": {"version": VERSION, "size_px": SIZE},
        "python": platform.python_version(),
        "torch": torch.__version__,
        "open_clip": open_clip.__version__,
        "numpy": np.__version__,
        "source": "benchmarks/pretrain_tiny.py",
    }
    options.out.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card["zero_shot"]))


if __name__ == "__main__":
    main()
