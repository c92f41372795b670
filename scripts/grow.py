"""Grows a trained small model without losing what it learned (Chen et al. 2016, Net2Net; zero-initialised blocks). What it writes
computes almost the same, and goes on learning with `spire pretrain --set start=OUT`. Needs the environment of scripts/reference.

    # A VAE with wider levels: channels are copied, and what reads a channel shares its weights among the copies.
    python scripts/grow.py levels assets/tiny/vae wide/vae 16,32,64,96
    # A VAE with 16 more latent channels, which start as small features.
    python scripts/grow.py latents assets/tiny/vae more/vae 16
    # UNet, branch and e(y) for the latents of another VAE, with two transformer blocks in each attention; the second one starts
    # as a copy of the first that adds nothing. SHEET is a sheet of scenes, on which a linear map between the latents is fitted:
    #     cargo run --release -p spire-data --example world -- SHEET 64
    python scripts/grow.py denoiser assets/tiny OUT --vae wide/vae --blocks 2 --sheet SHEET

For pictures of twice the side, with a sheet of scenes of that side (128 instead of 64 in the command above):

    # A VAE with the 24 principal components of the latents: a larger picture needs fewer numbers for each 8x8 pixels. Each is divided by
    # its standard deviation to the power 0.7. Otherwise the last ones are so small that noise hides them until the last steps.
    python scripts/grow.py components assets/tiny/vae OUT/vae 24 --whitening 0.7 --sheet SHEET --side 128
    # UNet and e(y) for it: a new level of 64 channels around the UNet's levels, which are copied. The new level is random.
    python scripts/grow.py level assets/tiny OUT 64 --vae OUT/vae --sheet SHEET --side 128

    # That UNet and its branch with attention in the new level as well, one transformer block each. It adds nothing at first.
    python scripts/grow.py attention assets/small OUT 1
"""

import argparse
import json
import pathlib

import numpy
from safetensors.numpy import load_file, save_file

WEIGHTS = "diffusion_pytorch_model.safetensors"
GAP = 2  # between the scenes of a sheet, in pixels


def read(folder):
    weights = {name: value.astype(numpy.float32) for name, value in load_file(folder / WEIGHTS).items()}
    return weights, json.loads((folder / "config.json").read_text())


def write(folder, weights, config):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    # Indexing may have changed the order in memory, which safetensors would write as it is.
    weights = {name: numpy.ascontiguousarray(value, numpy.float32) for name, value in weights.items()}
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def wider_levels(weights, config, widths, random):
    """The VAE with `widths` channels in its levels, in place."""
    if len(widths) != len(config["block_out_channels"]) or widths[-1] != config["block_out_channels"][-1]:
        raise SystemExit(f"widths: as many as {config['block_out_channels']}, and the last one stays, as the middle block does")
    groups, layers = config["norm_num_groups"], config["layers_per_block"]

    def copies(old, new):
        """Which old channel each new one copies; groups of the normalisation stay together."""
        old, new = old // groups, new // groups
        return numpy.array([group * old + i % old for group in range(groups) for i in range(new)])

    of = [copies(old, new) for old, new in zip(config["block_out_channels"], widths)]

    def norm(name, level):
        for part in (".weight", ".bias"):
            weights[name + part] = weights[name + part][of[level]]

    def conv(name, reads, writes):
        if name + ".weight" not in weights:
            return
        weight = weights[name + ".weight"]
        if reads is not None:
            # Unequal shares, so that copies learn different things.
            shares = random.uniform(0.5, 1.5, len(of[reads])).astype(numpy.float32)
            shares /= numpy.bincount(of[reads], shares)[of[reads]]
            weight = weight[:, of[reads]] * shares.reshape(1, -1, 1, 1)
        if writes is not None:
            weight = weight[of[writes]]
            weight = weight * (1 + 0.02 * random.standard_normal(weight.shape))
            weights[name + ".bias"] = weights[name + ".bias"][of[writes]]
        weights[name + ".weight"] = weight

    def resnet(name, before, level):
        norm(name + ".norm1", before)
        conv(name + ".conv1", before, level)
        norm(name + ".norm2", level)
        conv(name + ".conv2", level, level)
        conv(name + ".conv_shortcut", before, level)

    last = len(widths) - 1
    conv("encoder.conv_in", None, 0)
    for level in range(last + 1):
        for layer in range(layers):
            resnet(f"encoder.down_blocks.{level}.resnets.{layer}", max(level - 1, 0) if layer == 0 else level, level)
        conv(f"encoder.down_blocks.{level}.downsamplers.0.conv", level, level)
    for block, level in enumerate(range(last, -1, -1)):
        for layer in range(layers + 1):
            before = min(level + 1, last) if layer == 0 else level
            resnet(f"decoder.up_blocks.{block}.resnets.{layer}", before, level)
        conv(f"decoder.up_blocks.{block}.upsamplers.0.conv", level, level)
    norm("decoder.conv_norm_out", 0)
    conv("decoder.conv_out", 0, None)
    config["block_out_channels"] = widths


def more_latents(weights, config, more, random):
    """The VAE with `more` latent channels, in place. The encoder's new rows are as large as the old ones, the decoder's small."""
    old = config["latent_channels"]
    new = old + more

    def normal(shape, deviation):
        return random.standard_normal(shape) * deviation

    def moments(values, deviation):
        """More rows for means, and for log-variances, which start at zero."""
        means = normal((more, *values.shape[1:]), deviation)
        return numpy.concatenate([values[:old], means, values[old:], numpy.zeros_like(means)])

    weight = weights["encoder.conv_out.weight"]
    weights["encoder.conv_out.weight"] = moments(weight, weight[:old].std())
    weights["encoder.conv_out.bias"] = moments(weights["encoder.conv_out.bias"], 0)
    kept = numpy.r_[0:old, new : new + old]
    quant, bias = numpy.zeros((2 * new, 2 * new, 1, 1)), numpy.zeros(2 * new)
    quant[numpy.ix_(kept, kept)] = weights["quant_conv.weight"]
    bias[kept] = weights["quant_conv.bias"]
    added = range(old, new)
    quant[added, added] = numpy.sqrt((weights["quant_conv.weight"][:old] ** 2).sum((1, 2, 3)).mean())
    bias[new + old :] = weights["quant_conv.bias"][old:].mean()
    weights["quant_conv.weight"], weights["quant_conv.bias"] = quant, bias
    post = numpy.zeros((new, new, 1, 1))
    post[:old, :old] = weights["post_quant_conv.weight"]
    post[added, added] = numpy.sqrt((weights["post_quant_conv.weight"] ** 2).sum((1, 2, 3)).mean())
    weights["post_quant_conv.weight"] = post
    weights["post_quant_conv.bias"] = numpy.append(weights["post_quant_conv.bias"], numpy.zeros(more))
    weight = weights["decoder.conv_in.weight"]
    columns = normal((weight.shape[0], more, *weight.shape[2:]), 0.1 * weight.std())
    weights["decoder.conv_in.weight"] = numpy.concatenate([weight, columns], 1)
    config["latent_channels"] = new


def latents(vae, sheet, side):
    """The scaled latents of a sheet's scenes, one row a position."""
    import torch
    from diffusers import AutoencoderKL
    from PIL import Image

    sheet = numpy.asarray(Image.open(sheet).convert("RGB"), numpy.float32) / 127.5 - 1
    corners = [(y, x) for y in range(0, sheet.shape[0], side + GAP) for x in range(0, sheet.shape[1], side + GAP)]
    scenes = torch.tensor(numpy.stack([sheet[y : y + side, x : x + side] for y, x in corners])).permute(0, 3, 1, 2)
    vae = AutoencoderKL.from_pretrained(vae).float()
    with torch.no_grad():
        encoded = torch.cat([vae.encode(part).latent_dist.mode() for part in scenes.split(16)]) * vae.config.scaling_factor
    return encoded.permute(0, 2, 3, 1).reshape(-1, encoded.shape[1]).double().numpy()


def linear_map(inputs, outputs):
    """The affine map that explains `outputs` best: its matrix and its offset."""
    inputs = numpy.append(inputs, numpy.ones((len(inputs), 1)), 1)
    ridge = 1e-3 * len(inputs) * numpy.eye(inputs.shape[1])
    solution = numpy.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ outputs)
    unexplained = ((inputs @ solution - outputs) ** 2).mean() / outputs.var(0).mean()
    print(f"a linear map explains {100 * (1 - unexplained):.1f} % of the variance")
    return solution[:-1].T, solution[-1]


def writes(weights, name, to_new, offset):
    """Lets the convolution `name` write the latents of another VAE, in place."""
    weights[name + ".weight"] = numpy.einsum("ji,iokl->jokl", to_new, weights[name + ".weight"])
    weights[name + ".bias"] = to_new @ weights[name + ".bias"] + offset


def embedding(model, out, to_new, offset):
    """e(y) for another VAE."""
    weights, config = read(model / "embedding")
    writes(weights, "conv_out", to_new, offset)
    write(out / "embedding", weights, config)


def components(vae, out, kept, whitening, sheet, side):
    """The VAE with the first `kept` principal components of its latents, each divided by its deviation to the power `whitening`."""
    weights, config = read(vae)
    values = latents(vae, sheet, side) / config["scaling_factor"]
    mean = values.mean(0)
    axes = numpy.linalg.svd(values - mean, full_matrices=False)[2][:kept]
    deviations = ((values - mean) @ axes.T).std(0) ** whitening
    into, back = axes / deviations[:, None], axes.T * deviations
    # The 1x1 convolutions between encoder and decoder become part of the convolutions beside them.
    convolution, pointwise = weights["encoder.conv_out.weight"], weights["quant_conv.weight"][:, :, 0, 0]
    squares = axes**2
    moments = numpy.block([[into, numpy.zeros_like(into)], [numpy.zeros_like(into), squares]]) @ pointwise
    weights["encoder.conv_out.weight"] = numpy.einsum("ab,bikl->aikl", moments, convolution)
    offset = moments @ weights["encoder.conv_out.bias"]
    half = len(pointwise) // 2
    offset[:kept] += into @ weights["quant_conv.bias"][:half]
    offset[kept:] += squares @ weights["quant_conv.bias"][half:] - 2 * numpy.log(deviations)
    weights["encoder.conv_out.bias"] = offset
    convolution, pointwise = weights["decoder.conv_in.weight"], weights["post_quant_conv.weight"][:, :, 0, 0]
    constant = pointwise @ (mean - back @ into @ mean) + weights["post_quant_conv.bias"]
    weights["decoder.conv_in.weight"] = numpy.einsum("oikl,ij->ojkl", convolution, pointwise @ back)
    weights["decoder.conv_in.bias"] = weights["decoder.conv_in.bias"] + convolution.sum((2, 3)) @ constant
    for name, size in [("quant_conv", 2 * kept), ("post_quant_conv", kept)]:
        weights[name + ".weight"], weights[name + ".bias"] = numpy.eye(size)[:, :, None, None], numpy.zeros(size)
    deviation = ((values @ into.T).std()).item()
    write(out, weights, config | {"latent_channels": kept, "scaling_factor": 1 / deviation})


def untrained(config):
    """The weights of a UNet that has learned nothing, drawn from a seed."""
    import torch
    from diffusers import UNet2DConditionModel

    torch.manual_seed(1)
    return {name: value.numpy() for name, value in UNet2DConditionModel.from_config(config).state_dict().items()}


def level(model, out, width, vae, sheet, side):
    """UNet and e(y) for another VAE and pictures of twice the side."""
    to_new, offset = linear_map(latents(model / "vae", sheet, side), latents(vae, sheet, side))
    weights, config = read(model / "unet")
    config |= {
        "in_channels": len(to_new),
        "out_channels": len(to_new),
        "block_out_channels": [width, *config["block_out_channels"]],
        "down_block_types": ["DownBlock2D", *config["down_block_types"]],
        "up_block_types": [*config["up_block_types"], "UpBlock2D"],
        "sample_size": 2 * config["sample_size"],
    }
    grown = untrained(config)
    for name, value in weights.items():
        if name.startswith("down_blocks."):
            _, block, rest = name.split(".", 2)
            name = f"down_blocks.{int(block) + 1}.{rest}"
        elif name.startswith(("conv_in", "conv_out", "conv_norm_out")):
            continue  # these belong to the new level
        if grown[name].shape != value.shape:
            raise SystemExit(f"{name} has the shape {value.shape}, and would need {grown[name].shape}: choose another width")
        grown[name] = value
    write(out / "unet", grown, config)
    embedding(model, out, to_new, offset)


def attention(model, out, blocks):
    """UNet and branch with attention in the outer level, `blocks` transformer blocks each. It adds nothing at first."""
    weights, config = read(model / "unet")
    levels, layers = len(config["block_out_channels"]), config["transformer_layers_per_block"]
    changes = {
        "down_block_types": ["CrossAttnDownBlock2D", *config["down_block_types"][1:]],
        "up_block_types": [*config["up_block_types"][:-1], "CrossAttnUpBlock2D"],
        "transformer_layers_per_block": [blocks, *([layers] * levels if isinstance(layers, int) else layers)[1:]],
    }
    grown = untrained(config | changes)
    added = {name: value * (".proj_out." not in name) for name, value in grown.items() if name not in weights}
    write(out / "unet", weights | added, config | changes)
    weights, config = read(model / "control")
    of_branch = {name: value for name, value in added.items() if name.startswith("down_blocks.")}
    write(out / "control", weights | of_branch, config | {key: value for key, value in changes.items() if key in config})


def denoiser(model, vae, out, blocks, sheet, side):
    """UNet, branch and e(y) for another VAE."""
    old, new = latents(model / "vae", sheet, side), latents(vae, sheet, side)
    to_old, (to_new, offset) = linear_map(new, old)[0], linear_map(old, new)
    channels = len(to_new)

    def reads(weight):
        return numpy.einsum("oikl,ij->ojkl", weight, to_old)

    def deeper(weights, config):
        if blocks is None:
            return
        for name in [name for name in weights if ".transformer_blocks.0." in name]:
            for block in range(1, blocks):
                adds = "to_out.0" in name or "ff.net.2" in name
                copy = name.replace("transformer_blocks.0.", f"transformer_blocks.{block}.")
                weights[copy] = weights[name] * (0 if adds else 1)
        config["transformer_layers_per_block"] = blocks

    weights, config = read(model / "unet")
    weights["conv_in.weight"] = reads(weights["conv_in.weight"])
    writes(weights, "conv_out", to_new, 0)  # it predicts noise as well, which has no offset
    deeper(weights, config)
    write(out / "unet", weights, config | {"in_channels": channels, "out_channels": channels})

    weights, config = read(model / "control")
    halves = numpy.split(weights["conv_in.weight"], [old.shape[1]], 1)  # the noisy latents, and e(y)
    weights["conv_in.weight"] = numpy.concatenate([reads(half) for half in halves], 1)
    writes(weights, "controlnet_cond_embedding.conv_out", to_new, offset)
    deeper(weights, config)
    write(out / "control", weights, config | {"in_channels": channels, "condition_channels": channels})
    embedding(model, out, to_new, offset)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(dest="part", required=True)
    names = ("levels", "latents", "denoiser", "components", "level", "attention")
    levels, more, whole, fewer, around, outer = subcommands = [parts.add_parser(part) for part in names]
    for part in subcommands:
        part.add_argument("source", type=pathlib.Path)
        part.add_argument("out", type=pathlib.Path)
    levels.add_argument("widths", type=lambda widths: [int(width) for width in widths.split(",")])
    more.add_argument("more", type=int)
    whole.add_argument("--blocks", type=int)
    fewer.add_argument("kept", type=int)
    fewer.add_argument("--whitening", type=float, default=0)
    around.add_argument("width", type=int)
    outer.add_argument("blocks", type=int)
    for part in (whole, around):
        part.add_argument("--vae", type=pathlib.Path, required=True)
    for part in (whole, fewer, around):
        part.add_argument("--sheet", type=pathlib.Path, required=True)
        part.add_argument("--side", type=int, default=64, help="side of the sheet's scenes, in pixels")
    options = parser.parse_args()
    if options.part == "denoiser":
        return denoiser(options.source, options.vae, options.out, options.blocks, options.sheet, options.side)
    if options.part == "components":
        return components(options.source, options.out, options.kept, options.whitening, options.sheet, options.side)
    if options.part == "level":
        return level(options.source, options.out, options.width, options.vae, options.sheet, options.side)
    if options.part == "attention":
        return attention(options.source, options.out, options.blocks)
    weights, config = read(options.source)
    random = numpy.random.default_rng(1)
    if options.part == "levels":
        wider_levels(weights, config, options.widths, random)
    else:
        more_latents(weights, config, options.more, random)
    write(options.out, weights, config)


if __name__ == "__main__":
    main()
