"""How workers are called: "encoder-0", "decoder-1". Halves in one process have one number."""


def worker_name(role: str, number: int | str) -> str:
    return f"{role}-{number}"


def role_of(name: str) -> str:
    """Of a worker; "frontend" for the name of one."""
    return name.partition("-")[0]


def number_of(name: str) -> str:
    return name.rpartition("-")[2]


def encoder_beside(decoder: str) -> str:
    """The name of the encoder worker in the process of a colocated decoder worker."""
    return worker_name("encoder", number_of(decoder))
