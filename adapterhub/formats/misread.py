"""What stock diffusers makes of the files that we write for others."""

from adapterhub.lora.weights import AdapterTensors


def warnings_for(adapter: AdapterTensors, format_name: str) -> list[str]:
    """Say what stock diffusers makes of a file in this format, where that is not what it should."""
    if format_name == "comfy":
        return ["stock diffusers does not read ComfyUI's layout; load it with adapterhub's load_into"]
    if format_name not in ("kohya", "a1111"):
        return []
    found: list[str] = []
    others = [name for name in adapter.algorithms if name != "lora"]
    if others:
        found.append(
            f"stock diffusers refuses layers of {', '.join(others)}; convert to plain LoRA for it, "
            "or load the file with adapterhub's load_into"
        )
    alphas = [round(layer.scale * layer.rank, 6) for layer in adapter.low_rank().values()]
    most = max(alphas.count(alpha) for alpha in set(alphas)) if alphas else 0
    if most < len(alphas):
        found.append(
            f"stock diffusers loads {len(alphas) - most} of {len(alphas)} modules at the wrong strength, "
            "because their alphas differ; for it, use --format diffusers or adapterhub's load_into"
        )
    return found
