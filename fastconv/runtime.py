from fastconv import _native
def get_num_threads() -> int:
    return _native.default_threads()
