"""Messages as frames, and back."""

import dataclasses
from collections import defaultdict
from typing import Any

import ml_dtypes
