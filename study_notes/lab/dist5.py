from smooth import layered
from lab import *
import lab
from ditta_core.adaptation import *
from ditta_core.teacher import TeacherConfig
import ditta_core.teacher.dense_flow as DF
from ditta_core.engine import EngineConfig, FrameSegmenter
from ditta_core.types import Frame
from ditta_core.metrics import VideoConsistency
from dataclasses import replace
orig=DF.DenseFlow.build
def balanced(power,cap=4.):
    def build(self,clip,p,r):
        t=orig(self,clip,p,r); f=t.probabilities.mean((0,2,3)); cw=np.minimum((f.max()/np.maximum(f,1e-4))**power,cap**2)
        return replace(t,weights=(t.weights*cw[t.labels]).astype(np.float32))
    return build
mn='city'; src=CITY; N=20; Z2=EngineConfig(reliability_threshold=0,smoothing=.9); O=EngineConfig(reliability_threshold=0,smoothing=0)
base=TemporalSegmenter(load_model(src)); F={};Lr={};VC={};t0=time.time()
def ev(name,k,seg,Z,Y,ahead):
    for e in ahead:
        F.setdefault(name,{}); F[name][k]=F[name].get(k,0)+conf(labels(e),lab.predict(seg.model,image(e)))
    st=FrameSegmenter(seg,Z2,False); v=VideoConsistency((8,))
    for i in range(8,N):
        a=st.segment(Frame(Z[i],int(i*1e9/15)),PS,0).class_ids
        if i>=10: y=np.where(Y[i]<11,Y[i],255).astype(np.uint8); Lr.setdefault(name,{}); Lr[name][k]=Lr[name].get(k,0)+conf(y,a); v.update(y,a)
    VC.setdefault(name,[]).extend(v.scores[8])
def lerp_state(a,b,w):
    return AdaptedState({n:(a.tensors[n]*(1-w)+b.tensors[n]*w if n in a.tensors else b.tensors[n]) for n in b.tensors},False)
CF={'live':(AdaptationConfig(natural_shift=0.),orig),'bal.5':(AdaptationConfig(natural_shift=0.),balanced(.5))}
for k,t,ah in episodes(60,(1,3,5)):
    if k in ('0016E5b','0006R0b'): continue
    X,Y=layered(t,N)
    r0=run_job(AdaptationJob(X[:10],PS,src,TeacherConfig(),AdaptationConfig(passes=0,natural_shift=0.))).state; seg0=r0.apply(base); ev('nodist',k,seg0,X,Y,ah)
    for n,(ac,b) in CF.items():
        DF.DenseFlow.build=b; r=run_job(AdaptationJob(X[:10],PS,src,TeacherConfig(),ac)); assert r.state,r.report
        bn=dict(seg0.state_dict())
        full={**{q:bn[q].numpy() for q in r.state.tensors}}
        for w in (.5,1.):
            ev(f'{n} w{w}',k,lerp_state(AdaptedState(full,False),r.state,w).apply(base),X,Y,ah)
    print(k,f'{time.time()-t0:.0f}s',flush=True)
    for n in F:
        a,b=sum(F[n].values()),sum(Lr[n].values()); a0,b0=sum(F['nodist'].values()),sum(Lr['nodist'].values())
        print(f'   {n:12s} ahead {miou(a):.2f} ({miou(a)-miou(a0):+.2f}) |',' '.join(f'{x:+.0f}' for x in iou(a)-iou(a0)),f'| video {miou(b):.2f} ({miou(b)-miou(b0):+.2f}) VC8 {100*np.mean(VC[n]):.2f}',flush=True)
    save('dist5',{n:dict(F={q:c.tolist() for q,c in F[n].items()},L={q:c.tolist() for q,c in Lr[n].items()},vc=float(np.mean(VC[n]))) for n in F})
