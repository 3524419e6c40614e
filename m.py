import mmap, timeit
class D(bytes):
    sender=0; truncated=False
class E(bytes):
    __slots__=()
    sender=0
class S:
    __slots__=('data','sender','truncated')
    def __init__(self,data,sender=0,truncated=False):
        self.data=data;self.sender=sender;self.truncated=truncated
mm=mmap.mmap(-1,1<<20)
mv=memoryview(mm)
ba=bytearray(1<<20); bmv=memoryview(ba)
for L in (100,1400):
    for s in ("mm[a:b]","D(mm[a:b])","E(mm[a:b])","bytes(bmv[a:b])","D(bmv[a:b])","S(mm[a:b])"):
        t=min(timeit.repeat(s,globals=dict(globals(),a=70000,b=70000+L),number=200000,repeat=5))/200000*1e9
        print(L,s,round(t),"ns")
