"""The domains that a policy has tables for, and what a mixture of them may name."""

from xvla.config import DataConfig

# Rows of the domain-specific tables. Real sources keep the released ids (X-VLA's data table); a
# simulated domain takes the row of the source it stands for, unseen robots the unused ids 19, 28.
DOMAIN_IDS: dict[str, int] = {
    "bridge": 0,
    "rt1": 1,
    "calvin": 2,
    "libero": 3,
    "widowx_air": 4,
    "air_agilex_hq": 5,
    "robotwin2": 6,
    "robocasa_human": 7,
    "vlabench": 8,
    "agibot_challenge": 9,
    "air_agilex": 10,
    "robomind_franka": 11,
    "robomind_ur": 12,
    "droid_left": 13,
    "droid_right": 14,
    "agibot": 15,
    "robomind_agilex": 16,
    "robomind_franka_dual": 17,
    "airbot": 18,
    "sim_panda": 11,
    "sim_ur5e": 12,
    "sim_panda_left": 13,
    "sim_panda_right": 14,
    "sim_kinova3_dual": 15,
    "sim_ur5e_dual": 16,
    "sim_panda_dual": 17,
    "sim_xarm7": 19,
    "sim_iiwa": 28,
}


def domain_id(name: str) -> int:
    """Return the row of the domain-specific tables; ValueError for an unknown domain."""
    if name not in DOMAIN_IDS:
        raise ValueError(f"unknown domain {name!r}; known domains: {', '.join(DOMAIN_IDS)}")
    return DOMAIN_IDS[name]


def check_mixture(data: DataConfig) -> None:
    """Raise ValueError unless the mixture names known domains, each once."""
    names = [entry.name for entry in data.mixture]
    if not names:
        raise ValueError("data.mixture is empty; name at least one domain")
    for name in names:
        domain_id(name)
    if len(set(names)) < len(names):
        raise ValueError(f"data.mixture names a domain twice: {names}")


def check_anchor(data: DataConfig) -> None:
    """Raise ValueError unless the domain that is validated on is trained on."""
    names = [entry.name for entry in data.mixture]
    if data.anchor_domain not in names:
        raise ValueError(
            f"data.anchor_domain={data.anchor_domain!r} is not in the mixture {names}; validation "
            "needs the anchor domain in every training set"
        )
