from pynode.etf._pure import Gathering as Gathering
from pynode.etf._pure import decode as decode
from pynode.etf._pure import decode_at as decode_at
from pynode.etf._pure import encode as encode
from pynode.etf._pure import encode_parts as encode_parts
