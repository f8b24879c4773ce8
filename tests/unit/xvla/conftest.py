"""Let the tests of this folder import the helper modules beside them (importlib import mode)."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
