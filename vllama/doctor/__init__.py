"""What can be wrong with a machine, an installation and a server, found out one check at a time.

A check is a function that returns findings. It may be slow, hang or fail: `examine` gives each a deadline and turns
what it raises into a finding, so that the others are told in any case.
"""

from vllama.doctor.examine import examine
from vllama.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
