from pynode.identifiers._pure import Pid as Pid
from pynode.identifiers._pure import Port as Port
from pynode.identifiers._pure import Reference as Reference
from pynode.identifiers._pure import set_wire as set_wire
