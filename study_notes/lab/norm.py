from lab import *
# label-free criteria for the share; 12 episodes x shares x conditions x models
GRID=(0,.15,.3,.5)
out=[]
def kl(S,T):
    r=[]
    for (a,b),(c,d) in zip(S,T):
        b=b+1e-5; d=d+1e-5
        r.append(float((.5*((b/d)+(d/b)-2+(a-c)**2*(1/b+1/d))/2).clamp_max(100).mean()))   # symmetric KL per channel
    return r
def w2(S,T):
    return [float((((a-c)**2+(b.sqrt()-d.sqrt())**2)/(b+1e-5)).clamp_max(100).mean()) for (a,b),(c,d) in zip(S,T)]
def crit(m,clip):
    P=[];A=[]
    for im in clip:
        v=[]
        for s,f in ((1,0),(1,1),(1.25,0)):
            size=tuple(int(round(x*s/16))*16 for x in PS)
            x=np.ascontiguousarray(im[:,::-1] if f else im)[None]
            p=F.interpolate(logits(m,x,size),(PS[0]//2,PS[1]//2),mode='bilinear',align_corners=True).softmax(1)[:,:11]
            v.append(p.flip(-1) if f else p)
        P.append(torch.cat(v))
    P=torch.stack(P) # [n,3,C,h,w]
    q=P[:,0]; H=float(-(q*q.clamp_min(1e-8).log()).sum(1).mean()); mp=q.mean((0,2,3)); Hm=float(-(mp*mp.clamp_min(1e-8).log()).sum())
    am=P.argmax(2); 
    def js(a,b):
        mm=(a+b)/2; return float((-(mm*mm.clamp_min(1e-8).log()).sum(1)+.5*((a*a.clamp_min(1e-8).log()).sum(1)+(b*b.clamp_min(1e-8).log()).sum(1))).mean())
    # class-balanced agreement (mean IoU between views)
    def viou(x,y): return miou(conf(x.numpy().ravel(),y.numpy().ravel()))
    mix=P.mean(1); Hmix=float(-(mix*mix.clamp_min(1e-8).log()).sum(1).mean())
    return dict(H=H,Hm=Hm,MI=Hm-H,flip=float((am[:,0]==am[:,1]).float().mean()),scale=float((am[:,0]==am[:,2]).float().mean()),jsf=js(P[:,0],P[:,1]),jss=js(P[:,0],P[:,2]),iouf=viou(am[:,0],am[:,1]),ious=viou(am[:,0],am[:,2]),Hmix=Hmix,MImix=Hm-Hmix,hist=mp.tolist()),am[:,0]
models=sys.argv[1].split(','); conds=sys.argv[2].split(','); step=int(sys.argv[3]); tag=sys.argv[4]
for mn in models:
    m=load_model(CITY if mn=='city' else CAMVID)
    for cond in conds:
        t0=time.time(); tot={s:{} for s in GRID}
        for k,t,ev in episodes(step):
            co=corruptor(cond,t); clip,_=pseudo(t,10); clip=np.stack([co(x,i) for i,x in enumerate(clip)])
            pix=m.preprocess(clip[[0,4,9]],PS,CPU); L,S,T=bn_stats(m,pix); D=kl(S,T); W=w2(S,T)
            evs=[(co(image(e),100+10*i),labels(e)) for i,e in enumerate(ev)]; lab0=None
            for s in GRID:
                set_stats(L,lerp(S,T,s)); c=np.zeros((11,11),int)
                for im,gt in evs: c+=conf(gt,predict(m,im))
                cr,am=crit(m,clip[[0,9]])
                if lab0 is None: lab0=am
                cr['same0']=float((am==lab0).float().mean())
                out.append(dict(model=mn,cond=cond,k=k,t=t,s=s,C=c.tolist(),kl=D if s==0 else None,w2=W if s==0 else None,**cr))
                tot[s][k]=tot[s].get(k,0)+c
            set_stats(L,S)
        print(mn,cond,'all',' '.join(f'{s}:{miou(sum(tot[s].values())):.1f}' for s in GRID),'| drives best',' '.join(f'{k}:{max(GRID,key=lambda s:miou(tot[s][k]))}' for k in tot[0]),f'{time.time()-t0:.0f}s',flush=True)
        save(tag,out)
