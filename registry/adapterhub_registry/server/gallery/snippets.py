"""Lines to copy that use a version as they stand: on the command line, in Python, diffusers, ComfyUI."""

import shlex
from dataclasses import dataclass

from adapterhub_registry.card_text import one_line
from adapterhub_registry.manifest import Version
from adapterhub_registry.probe import BASE_MODELS


@dataclass(frozen=True)
class Snippet:
    """Lines for one tool."""

    title: str
    note: str
    text: str


def snippets(version: Version, origin: str, *, is_private: bool) -> list[Snippet]:
    """Return what to copy.

    Args:
        version: The version.
        origin: Of the server.
        is_private: Whether a token is needed.
    """
    reference, weight = version.reference, version.manifest.recommended_weight or "1"
    prompt = one_line(", ".join(version.trigger_words)) or "a picture"
    base = BASE_MODELS.get(version.architecture, version.architecture)
    short = version.name.partition("/")[2]
    loaded = short.replace(".", "_")  # PEFT takes no dots
    sign_in = "adapterhub login team\n" if is_private else ""
    token = "export HF_TOKEN=ahub_...\n" if is_private else ""
    pull = f"adapterhub remote add team {origin}\n{sign_in}adapterhub pull team:{reference}\n"
    use = f"{reference}:{weight}"
    generate = shlex.join(["adapterhub", "generate", "--base", base, "-p", prompt, "--use", use])
    python = (
        "import adapterhub as ah\n\n"
        "registry = ah.Registry()\n"
        f'registry.pull("{reference}", remote="team")\n'
        f'with ah.Runtime.load("{base}", registry=registry) as runtime:\n'
        f'    runtime.compose("{use}")\n'
        f"    picture = runtime.generate({prompt!r}, seed=7).images[0]\n"
    )
    diffusers = (
        f"# export HF_ENDPOINT={origin}{' HF_TOKEN=ahub_...' if is_private else ''}\n"
        f'pipeline.load_lora_weights("{version.name}", revision="v{version.number}", '
        f'adapter_name="{loaded}")\n'
        f'pipeline.set_adapters("{loaded}", {weight})\n'
        f"picture = pipeline({prompt!r}).images[0]\n"
    )
    export = f"adapterhub export {reference} --format comfy --out ComfyUI/models/loras/{short}.safetensors\n"
    download = (
        f"export HF_ENDPOINT={origin}\n{token}hf download {version.name} --revision v{version.number}\n"
    )
    return [
        Snippet("Command line", "Pull it once, then draw with it.", pull + generate + "\n"),
        Snippet("Python", "After adapterhub remote add, as on the command line.", python),
        Snippet("diffusers", "With a pipeline of its base, loaded from a directory or the cache.", diffusers),
        Snippet("ComfyUI", f"Then choose it in a Load LoRA node, at strength {weight}.", pull + export),
        Snippet("Files", "With the Hugging Face client, for any other tool.", download),
    ]
