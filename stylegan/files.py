from stylegan.cache import *  # shim until the merge
from stylegan.cache import checkout, read_json, replacing  # noqa
from stylegan.data.naming import shown as printable  # noqa
