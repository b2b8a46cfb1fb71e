"""What transformers answers to a prompt with images."""

import torch
from prompt_states import continuation
from tiny_vlms import IMAGE
from transformers import PreTrainedModel

from antiphon.inputs.images.pixels import Pixels
from antiphon.inputs.prepared import Prepared


def image_inputs(name: str, media: list[Pixels]) -> dict[str, torch.Tensor]:
    """What transformers' models take."""
    if not media:
        return {}
    shapes = [image.shape.pixels for image in media]
    values = [torch.from_numpy(image.values.copy()) for image in media]
    if shapes[0][3] == 3 * 2 * 4 * 4:  # patches
        grids = torch.tensor([shape[:3] for shape in shapes])
        return {
            "pixel_values": torch.cat([value.flatten(0, 2) for value in values]),
            "image_grid_thw": grids,
        }
    if name in ("llava_next", "llava_onevision"):
        sizes = torch.tensor([image.shape.size for image in media])
        tiles = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        images = {"pixel_values": tiles, "image_sizes": sizes}
        if name == "llava_onevision":
            images["batch_num_images"] = torch.tensor([len(media)])
        return images
    return {"pixel_values": torch.cat(values)}


def answer(model: PreTrainedModel, prepared: Prepared, count: int) -> tuple[list[int], list[float]]:
    """`count` greedy tokens, and their log-probabilities. `prepared`: by an image processor of the
    host."""
    ids = torch.tensor([prepared.prompt_token_ids])
    media = [Pixels.unpacked(part.payload) for part in prepared.inputs]
    images = image_inputs(model.config.model_type, media)
    if "image_grid_thw" in images:
        images["mm_token_type_ids"] = (ids == IMAGE).int()
    mask = torch.ones_like(ids)
    return continuation(model, count, input_ids=ids, attention_mask=mask, **images)
