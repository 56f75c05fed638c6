"""The text of a model card that the registry writes: how to use a version, what it was made of, facts."""

import re
import shlex
from collections.abc import Mapping

from adapterhub_registry.manifest import Version
from adapterhub_registry.probe import BASE_MODELS
from adapterhub_registry.publication import Adapter

# Setting to (option of `adapterhub generate`, argument of a diffusers pipeline).
_CALLS = {
    "steps": ("--steps", "num_inference_steps"),
    "guidance_scale": ("--guidance", "guidance_scale"),
    "negative_prompt": ("--negative", "negative_prompt"),
    "width": ("--width", "width"),
    "height": ("--height", "height"),
}
_LOADS = {
    "sdxl": """import torch
from diffusers import StableDiffusionXLPipeline

base = "stabilityai/stable-diffusion-xl-base-1.0"
pipeline = StableDiffusionXLPipeline.from_pretrained(base, torch_dtype=torch.float16).to("cuda")
""",
    "mini": """import adapterhub
from diffusers import StableDiffusionXLPipeline

pipeline = StableDiffusionXLPipeline.from_pretrained(adapterhub.find_base("mini").path)
""",
}
_PEFT = """from peft import PeftModel

model = PeftModel.from_pretrained(base_model, "{name}")  # base_model: what it was trained on
"""


def written_body(adapter: Adapter, version: Version, *, has_pictures: bool, facts: Mapping[str, str]) -> str:
    """Return the text of a card whose author wrote none; see `adapterhub_registry.card.render_card`."""
    manifest = version.manifest
    words = ", ".join(_code(word) for word in version.trigger_words)
    settings = {"weight": manifest.recommended_weight} if manifest.recommended_weight else {}
    settings |= dict(adapter.settings)
    known = {
        **facts,
        "algorithm": manifest.algorithm,
        "architecture": manifest.architecture,
        "made on": manifest.base_identity,
        "licence": manifest.licence,
        "files": ", ".join(f"{file.path} ({file.size:,} bytes)" for file in manifest.files),
        "version": version.reference,
        "digest": version.digest,
    }
    parts = [
        f"# {one_line(adapter.title) or version.name.split('/')[-1]}",
        one_line(adapter.description),
        "<Gallery />" if has_pictures else "",
        f"## Trigger words\n\nSay {words} in the prompt." if words else "",
        f"## Settings to start with\n\n{_table(settings)}" if settings else "",
        f"## Use it\n\n{_usage(adapter, version)}",
        f"## What it was made of\n\n{_origin(version.lineage)}" if version.lineage else "",
        f"## Facts\n\n{_table({name: value for name, value in known.items() if value})}",
    ]
    return "\n\n".join(part for part in parts if part)


def one_line(text: str) -> str:
    """Return text with every run of white space as one blank.

    Example:
        >>> one_line(" soft\\n  ink ")
        'soft ink'
    """
    return re.sub(r"\s+", " ", text).strip()


def _usage(adapter: Adapter, version: Version) -> str:
    """Return commands and code that work as they stand, for the base that it was made for."""
    reference, weight = version.reference, version.manifest.recommended_weight or "1"
    name = re.sub(r"\W", "_", version.name.split("/")[-1])
    if version.architecture.startswith("transformers"):
        export = f"adapterhub export {reference} --format peft --out {name}"
        return f"{_block('sh', export)}\n\n{_block('python', _PEFT.format(name=name))}"
    prompt = one_line(", ".join(version.trigger_words)) or "a picture"
    command = ["adapterhub", "generate", "-p", prompt, "--use", f"{reference}:{weight}"]
    if version.architecture in BASE_MODELS:
        command += ["--base", BASE_MODELS[version.architecture]]
    arguments = [repr(prompt)]
    for setting, (option, argument) in _CALLS.items():
        value = adapter.settings.get(setting)
        if value is not None:
            command += [option, value]
            arguments.append(
                f"{argument}={value!r}" if setting == "negative_prompt" else f"{argument}={value}"
            )
    text = f"With AdapterHub:\n\n{_block('sh', shlex.join(command))}"
    if version.architecture not in _LOADS:
        return text
    call = f"picture = pipeline({', '.join(arguments)}).images[0]"
    code, export = _LOADS[version.architecture], ""
    if version.manifest.algorithm == "lora":
        export = f"adapterhub export {reference} --format diffusers --out {name}.safetensors"
        export = f"{_block('sh', export)}\n\n"
        code += f'pipeline.load_lora_weights("{name}.safetensors", adapter_name="{name}")\n'
        code += f'pipeline.set_adapters("{name}", {weight})\n'
    else:
        code = code if code.startswith("import adapterhub") else f"import adapterhub\n{code}"
        code += f'adapterhub.load_into(pipeline, "{reference}", weight={weight})\n'
    return f"{text}\n\nWith diffusers:\n\n{export}{_block('python', code + call)}"


def _origin(lineage: Mapping[str, str]) -> str:
    """Return what a version was made of, a line each, the operation first."""
    lines = [f"- operation: {_code(lineage['operation'])}"] if "operation" in lineage else []
    for key, value in lineage.items():
        if re.fullmatch(r"parent\.\d+", key):
            weight = lineage.get(f"{key}.weight")
            name = _code(lineage.get(f"{key}.name") or value)
            lines.append(f"- of {name} at {_code(weight)}" if weight else f"- of {name}")
        elif key != "operation" and not re.fullmatch(r"parent\.\d+\.\w+", key):
            lines.append(f"- {one_line(key)}: {_code(value)}")
    return "\n".join(lines)


def _block(language: str, text: str) -> str:
    return f"```{language}\n{text.rstrip()}\n```"


def _table(rows: Mapping[str, str]) -> str:
    cells = [(name.replace("_", " "), one_line(value).replace("|", "\\|")) for name, value in rows.items()]
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in cells)])


def _code(text: str) -> str:
    """Return text as a Markdown code span, whatever backticks it holds."""
    text = one_line(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"
