"""Write a network's weights and configuration as an ordinary Transformers folder."""

from pathlib import Path

from transformers import PreTrainedModel


def save_network(model: PreTrainedModel, folder: Path) -> None:
    """Write weights and configuration, readable by whoever may read the configuration.

    Args:
        model: the network.
        folder: where to; made when it does not exist.

    Raises:
        OSError: the folder cannot be written, or the disk is full.
    """
    try:
        model.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        # safetensors has an error of its own for a full disk; importing it would be a dependency.
        if type(error).__name__ != "SafetensorError":
            raise
        raise OSError(f"{folder}: cannot be written ({error}).") from error
    _share_weights(folder)


def _share_weights(folder: Path) -> None:
    """Give weights that were just saved the permissions of the config.json beside them.

    safetensors 0.8.0 makes files that their owner alone may read, whatever the umask. Delete when
    it no longer does (safetensors/safetensors#782).
    """
    mode = (folder / "config.json").stat().st_mode & 0o777
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)
