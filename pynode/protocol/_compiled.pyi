from pynode.protocol._pure import frame as frame
from pynode.protocol._pure import message_at as message_at
