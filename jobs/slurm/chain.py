"""The commands that `submit --then` chains behind a study's runs."""

from collections.abc import Sequence

STUDY_VERBS = ("sync", "export", "fit", "report", "best")


def chain_commands(then: str, study: str, shared: Sequence[str]) -> list[list[str]]:
    """Return the `scaling` commands of e.g. "sync,fit,report,finetune:sim_xarm7".

    `shared`: overrides and options that every command on the study gets; finetune gets the options,
    and starts from the best checkpoint of the study with these overrides. Raises ValueError for
    another word.
    """
    commands = []
    for word in filter(None, (part.strip() for part in then.split(","))):
        verb, _, domain = word.partition(":")
        if verb == "finetune" and domain:
            options = [item for item in shared if item.startswith("--")]
            words = [item for item in shared if not item.startswith("--")]
            source = ",".join([f"best:{study}", *words])
            commands.append([verb, "--from", source, "--domain", domain, *options])
        elif verb in STUDY_VERBS and not domain:
            commands.append([verb, study, *shared])
        else:
            raise ValueError(
                f"--then {word!r} cannot be chained; allowed: {', '.join(STUDY_VERBS)} and "
                "finetune:DOMAIN, separated by commas"
            )
    return commands
