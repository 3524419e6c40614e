from nfnl.wire.codec import decode, encode
import nfnl.subsys.queue
