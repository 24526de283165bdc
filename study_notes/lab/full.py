from smooth import layered
from lab import *
from ditta_core.adaptation import *
from ditta_core.teacher import TeacherConfig
from ditta_core.engine import EngineConfig, FrameSegmenter
from ditta_core.types import Frame
from ditta_core.metrics import VideoConsistency
import ditta_core.engine as eng
src={'city':CITY,'camvid':CAMVID}
mn,cond,step=sys.argv[1],sys.argv[2],int(sys.argv[3]); N=22
A={'bn.1':AdaptationConfig(passes=0,statistics_share=.1),'live .1':AdaptationConfig(statistics_share=.1)} if mn=='camvid' else {'bn.3':AdaptationConfig(passes=0),'live':AdaptationConfig()}
Eg={'none':EngineConfig(smoothing=0,reliability_threshold=0),'tb only':EngineConfig(smoothing=0),'new s':EngineConfig(reliability_threshold=0),'tb+new s':EngineConfig(),'s.9':EngineConfig(reliability_threshold=0,smoothing=.9),'tb.5+s':EngineConfig(reliability_threshold=.5),'tb.3+s':EngineConfig(reliability_threshold=.3)}
res={};VCs={}
def run_one(seg,cfg,tb,Z,Y,key,k):
    st=FrameSegmenter(seg,cfg,tb); v=VideoConsistency((8,))
    for i in range(8,N):
        a=st.segment(Frame(Z[i],int(i*1e9/15)),PS,0).class_ids
        if i>=10: y=np.where(Y[i]<11,Y[i],255).astype(np.uint8); res.setdefault(key,{}); res[key][k]=res[key].get(k,0)+conf(y,a); v.update(y,a)
    VCs.setdefault(key,[]).extend(v.scores[8])
base=TemporalSegmenter(load_model(src[mn])); t0=time.time()
for k,t,ev in episodes(step):
    X,Y=layered(t,N); co=corruptor(cond,t); Z=np.stack([co(x,i) for i,x in enumerate(X)])
    for n in ('none','new s'): run_one(base,Eg[n],False,Z,Y,('source',n),k)
    for an,ac in A.items():
        r=run_job(AdaptationJob(Z[:10],PS,src[mn],TeacherConfig(name='flow') if 'name' in TeacherConfig.__dataclass_fields__ else TeacherConfig(),ac))
        assert r.state is not None,r.report
        seg=r.state.apply(base)
        import pickle; pickle.dump(r.state,open(f'/tmp/study/results/state_{mn}_{cond}_{t}_{an}.pkl','wb'))
        for n,c in Eg.items():
            if an.startswith('bn') and n.startswith('tb'): continue
            run_one(seg,c,r.state.temporal_branch,Z,Y,(an,n),k)
    print(k,t,f'{time.time()-t0:.0f}s',flush=True)
r0=sum(res['source','none'].values())
for key in res:
    c=sum(res[key].values()); print(mn,cond,f'{key[0]:12s} {key[1]:10s} mIoU {miou(c):.2f} VC8 {100*np.mean(VCs[key]):.2f} |',' '.join(f'{x:+.1f}' for x in iou(c)-iou(r0)),flush=True)
save(f'full_{mn}_{cond}',{'|'.join(a):dict(C={k:c.tolist() for k,c in b.items()},vc=float(np.mean(VCs[a]))*100) for a,b in res.items()})
