import distill
from distill import *
import lab
distill.PS=(368,480)
def prep4(share=.3,step=30,views=('s1','s1f','s1.25','s1.25f'),ahead=(1,3,5)):
    m=load_model(CITY); E=[]; C1={}; C4={}
    PS=distill.PS
    for k,t,ev in episodes(step,ahead):
        clip=np.stack([image(t-d) for d in (3,2,1,0)]); pix=m.preprocess(clip,PS,CPU).contiguous(memory_format=torch.channels_last)
        L,S,T1=bn_stats(m,pix[3:]); set_stats(L,lerp(S,T1,share)); evs=[(image(e),labels(e)) for e in ev]
        c=evaluate(m,dict(ev=evs)); C1[k]=C1.get(k,0)+c; set_stats(L,S)
        L,S,T=bn_stats(m,pix); st=lerp(S,T,share); set_stats(L,st); P={}
        with torch.no_grad():
            for n in views:
                s,f=VIEWS[n]; size=tuple(int(round(x*s/16))*16 for x in PS); out=[]
                for im in clip:
                    x=np.ascontiguousarray(im[:,::-1] if f else im)[None]
                    p=F.interpolate(logits(m,x,size),(PS[0]//2,PS[1]//2),mode='bilinear',align_corners=True).softmax(1)[:,:11]
                    out.append(p.flip(-1) if f else p)
                P[n]=torch.cat(out).half()
        E.append(dict(k=k,t=t,P=P,ev=evs,st=st,pix=pix)); set_stats(L,S)
    print('bn from one frame',f'{miou(sum(C1.values())):.1f}',' '.join(f'{miou(C1[k]):.1f}' for k in C1),flush=True)
    return m,L,S,E
m,L,S,E=prep4()
run(m,L,S,E,{
 'mv decoder':dict(target=('s1','s1f','s1.25','s1.25f'),wise=(.5,1.)),
 'x1.25 flip-aug cosine ema':dict(target=('s1.25','s1.25f'),flip=True,cosine=True,ema=.9),
 'mv decoder sharp':dict(target=('s1','s1f','s1.25','s1.25f'),sharp=.5),
 'self':dict(target=('s1',)),
},'d3')
