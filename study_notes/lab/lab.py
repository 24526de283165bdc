"""Development set: episodes from CamVid train. Warm-up = 10 pseudo-video frames of one frame; evaluated on later frames."""
import json, os, sys, time, copy
import cv2, numpy as np, torch, torch.nn.functional as F
torch.set_num_threads(1); cv2.setNumThreads(1)
from ditta_core.segmentation.registry import ModelSource, load_model
from ditta_core.datasets.camvid import CamVidSequence
from ditta_core.corruptions import Corruption, Corruptor
from ditta_core.normalisation import blend_statistics
from ditta_core.fusion import TemporalSegmenter
R='/tmp/study/results/'
CITY=ModelSource('espnetv2:/work/shared/weights/espnetv2_s_2.0_city_1024x512.pth',classes='camvid11')
CAMVID=ModelSource('camvid')
NAMES='sky building pole road pavement tree sign fence car pedestrian bicyclist'.split()
SEQ=CamVidSequence('/work/shared/data/camvid/train',1.0)
# drives: 0..61 0001TP, 62..162 0006R0, 163.. 0016E5 (gap after 68)
DR={'0001TP':(0,62),'0006R0a':(62,112),'0006R0b':(112,163),'0016E5a':(163,231),'0016E5b':(231,299),'0016E5c':(299,367)}
def drive(i): return next(k for k,(a,b) in DR.items() if a<=i<b)
def episodes(step=15, ahead=(2,4,6)):
    out=[]
    for k,(a,b) in DR.items():
        for t in range(a+3,b-max(ahead),step): out.append((k,t,[t+d for d in ahead]))
    return out
_img={}
def image(i):
    if i not in _img: _img[i]=SEQ.image(i)
    return _img[i]
def labels(i): return SEQ.labels(i)
PS=(320,432)
def motion(seed,n,rate=1.0):
    """Smooth random camera path: list of 2x3 affine maps (pseudo pixel -> image pixel)."""
    g=np.random.default_rng(seed); H,W=360,480;h,w=PS
    v=g.normal(0,1,2)*np.array([1.6,0.5])*rate; z=g.uniform(-0.002,0.004)*rate; r=np.deg2rad(g.uniform(-.12,.12))*rate
    cx,cy=W/2,H/2; s=1.0; a=0.0; M=[]
    for i in range(n):
        c,sn=np.cos(a)*s,np.sin(a)*s
        M.append(np.array([[c,-sn,cx-c*w/2+sn*h/2],[sn,c,cy-sn*w/2-c*h/2]],np.float32))
        v=v*0.95+g.normal(0,.35,2)*rate*np.array([1,.6])
        cx=np.clip(cx+v[0],W/2-22,W/2+22); cy=np.clip(cy+v[1],H/2-18,H/2+18); s=np.clip(s-z,0.93,1.0); a+=r
    return M
def pseudo(i,n=10,seed=None,noise=1.5,rate=1.0,want_labels=False):
    im=image(i).astype(np.float32); lb=labels(i); h,w=PS; g=np.random.default_rng(1000+i)
    X=[];Y=[]
    for M in motion(i if seed is None else seed,n,rate):
        f=cv2.warpAffine(im,M,(w,h),flags=cv2.INTER_CUBIC|cv2.WARP_INVERSE_MAP,borderMode=cv2.BORDER_REFLECT_101)
        f=f*(1+g.normal(0,.01))+g.normal(0,noise,f.shape)
        X.append(np.clip(f,0,255).astype(np.uint8))
        if want_labels: Y.append(cv2.warpAffine(lb,M,(w,h),flags=cv2.INTER_NEAREST|cv2.WARP_INVERSE_MAP,borderMode=cv2.BORDER_CONSTANT,borderValue=255))
    return np.stack(X),(np.stack(Y) if Y else None)
def corruptor(cond,seed):
    return (lambda x,i:x) if cond=='clean' else Corruptor(Corruption.parse(cond),seed)
def conf(gt,pr,n=11):
    v=gt<n
    return np.bincount(n*gt[v].astype(int)+pr[v],minlength=n*n).reshape(n,n)
def iou(c):
    u=c.sum(0)+c.sum(1)-np.diag(c); p=c.sum(1)>0
    return np.where(p,np.diag(c)/np.maximum(u,1),np.nan)*100
def miou(c): return float(np.nanmean(iou(c)))
CPU=torch.device('cpu')
@torch.inference_mode()
def logits(m,im,size=None):
    """RGB [n,H,W,3] -> logits at stride 2."""
    size=size or m.input_size(im.shape[1:3],0)
    x=m.preprocess(im,size,CPU).contiguous(memory_format=torch.channels_last)
    return m.classify(m.decode(m.encode(x)))
@torch.inference_mode()
def predict(m,im):
    """As the engine with nothing temporal: probabilities at stride 2, enlarged, argmax."""
    p=logits(m,im[None]).softmax(1)
    return m.enlarge_logits(p,im.shape[:2])[0,:11].argmax(0).numpy()
def bn_stats(m,pix):
    """(source, target) lists of BN statistics, target in one pass."""
    from torch.nn.modules.batchnorm import _BatchNorm
    L=[l for l in m.modules() if isinstance(l,_BatchNorm)]
    S=[(l.running_mean.clone(),l.running_var.clone()) for l in L]
    blend_statistics(m,lambda:m.classify(m.decode(m.encode(pix))),1.0)
    T=[(l.running_mean.clone(),l.running_var.clone()) for l in L]
    set_stats(L,S); return L,S,T
def set_stats(L,S):
    for l,(a,b) in zip(L,S): l.running_mean.copy_(a); l.running_var.copy_(b)
def lerp(S,T,w):
    if np.isscalar(w): w=[w]*len(S)
    return [(a.lerp(c,float(x)),b.lerp(d,float(x))) for (a,b),(c,d),x in zip(S,T,w)]
def save(name,obj):
    json.dump(obj,open(R+name+'.json','w'))
