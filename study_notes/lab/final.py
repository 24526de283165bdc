"""The clip, once: warm-up frames 0-9, measured 10-100."""
import json,sys,time,numpy as np,torch,cv2
torch.set_num_threads(1); cv2.setNumThreads(1)
from ditta_core.adaptation import *
from ditta_core.engine import *
from ditta_core.teacher import TeacherConfig
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.corruptions import Corruption,Corruptor
from ditta_core.metrics import VideoConsistency,ConfusionMatrix
from ditta_core.types import Frame
S=CamVidSequence('/work/shared/data/camvid/clip_0016E5',15.); LB=[S.labels(i) for i in range(101)]; IM=[S.image(i) for i in range(101)]
SRC={'city':ModelSource('espnetv2:/work/shared/weights/espnetv2_s_2.0_city_1024x512.pth',classes='camvid11'),'camvid':ModelSource('camvid')}
O=EngineConfig(smoothing=0,reliability_threshold=0)
F1=EngineConfig(); F2=EngineConfig(reliability_threshold=0,smoothing=.9)
out={}
def go(mn,cond,scale=1.0):
    base=TemporalSegmenter(load_model(SRC[mn])); co=Corruptor(Corruption.parse(cond),0) if cond!='clean' else None
    im=[co(x,i) if co else x for i,x in enumerate(IM)]; size=base.model.input_size((360,480),int(480*scale)); r0=None
    def ev(name,seg,cfg,tb):
        st=FrameSegmenter(seg,cfg,tb); v=VideoConsistency((8,16)); c=ConfusionMatrix(11)
        for i in range(10,101):
            a=st.segment(Frame(im[i],int(i*1e9/15)),size,0).class_ids; v.update(LB[i],a); c.update(LB[i],a)
        u=c.iou()*100; out[f'{mn}|{cond}|{scale}|{name}']=dict(miou=100*c.mean_iou(),vc8=100*v.value(8) if hasattr(v,'value') else 100*float(np.mean(v.scores[8])),iou=u.tolist())
        o=out[f'{mn}|{cond}|{scale}|{name}']; print(mn,cond,size,f"{name:16s} mIoU {o['miou']:.2f} VC8 {o['vc8']:.2f} |",' '.join(f'{x:.0f}' for x in u),f'{time.time()-t0:.0f}s',flush=True); json.dump(out,open(OUT,'w'))
    t0=time.time(); ev('source',base,O,False)
    for an,ac in {'live.5':AdaptationConfig()}.items():
        r=run_job(AdaptationJob(np.stack(im[:10]),size,SRC[mn],TeacherConfig(),ac)); assert r.state,r.report
        seg=r.state.apply(base)
        if an=='live': ev('F1 live tb .85',seg,F1,True)
        ev(f'F2 {an} .9',seg,F2,False)
OUT=sys.argv[1]
for a in sys.argv[2:]:
    mn,cond,sc=a.split(','); go(mn,cond,float(sc))
