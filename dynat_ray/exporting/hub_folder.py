"""A model folder as the Hugging Face Hub and timm read it, and its way there."""

from __future__ import annotations

import os
from pathlib import Path

from dynat_ray.errors import UserError
from dynat_ray.exporting.model_card import model_card
from dynat_ray.exporting.origin import Origin
from dynat_ray.models import save_model
from dynat_ray.models.backbone import first_line


def write_hub_folder(origin: Origin, folder: Path, name: str) -> None:
    """Writes `config.json` with the classes' names, `model.safetensors` and the card `README.md`.

    Args:
        origin: The model and its run.
        folder: New.
        name: Of the model on the hub, for the card.
    """
    origin.model.label_names = origin.model.label_names or tuple(origin.classes)
    save_model(origin.model, folder)
    (folder / "README.md").write_text(model_card(origin, name), encoding="utf-8")


def require_token() -> str:
    """Returns the token for the hub; raises `UserError` if the user has logged in nowhere."""
    from huggingface_hub import get_token  # half a second, for those who need it

    if token := get_token():
        return token
    raise UserError("--push needs a token of the hub: run hf auth login, or set HF_TOKEN")


def push(folder: Path, repository: str, token: str) -> str:
    """Sends a folder to a repository of the hub, made if it is not there; returns its address.

    Args:
        folder: What to send.
        repository: `OWNER/NAME`.
        token: Of somebody who may write there.

    Raises:
        UserError: The hub does not answer, or refuses.
    """
    from huggingface_hub import HfApi

    endpoint = os.environ.get("HF_ENDPOINT")
    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repository, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, commit_message="A model of dynat-ray"
        )
    # The hub's library has dozens of errors, and those of what it is built on.
    except Exception as error:
        raise UserError(
            f"{repository} can't be written on the hub ({first_line(error)[:300]}); the model is "
            f"in {folder}"
        ) from error
    return f"{api.endpoint}/{repository}"
