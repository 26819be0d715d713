"""Property tests of the data room have no deadline a case: a busy machine is slow, not wrong."""

from hypothesis import settings

settings.register_profile("data", deadline=None)
settings.load_profile("data")
