from lab import *
import hashlib
VIEWS={'s1':(1,0),'s1f':(1,1),'s1.25':(1.25,0),'s1.25f':(1.25,1),'s1.5':(1.5,0),'s1.5f':(1.5,1),'s2':(2,0),'s2f':(2,1)}
NF=4
def prepare(model='city',cond='clean',share=.3,step=30,views=tuple(VIEWS),ahead=(1,3,5),hold=None):
    m=load_model(CITY if model=='city' else CAMVID); E=[]
    for k,t,ev in episodes(step,ahead):
        co=corruptor(cond,t); clip,gtl=pseudo(t,10,want_labels=True); clip=np.stack([co(x,i) for i,x in enumerate(clip)])
        ix=np.linspace(0,9,NF).round().astype(int); clip=clip[ix]; gtl=gtl[ix][:,::2,::2]
        pix=m.preprocess(clip,PS,CPU).contiguous(memory_format=torch.channels_last)
        L,S,T=bn_stats(m,pix[[0,1,3]]); st=lerp(S,T,share); set_stats(L,st)
        P={}
        with torch.no_grad():
            for n in views:
                s,f=VIEWS[n]; size=tuple(int(round(x*s/16))*16 for x in PS)
                out=[]
                for im in clip:
                    x=np.ascontiguousarray(im[:,::-1] if f else im)[None]
                    p=logits(m,x,size)
                    p=F.interpolate(p,(PS[0]//2,PS[1]//2),mode='bilinear',align_corners=True).softmax(1)[:,:11]
                    out.append(p.flip(-1) if f else p)
                P[n]=torch.cat(out).half()
        evs=[(co(image(e),100+15*d),labels(e)) for e,d in zip(ev,ahead)]
        G=torch.zeros(NF,11,PS[0]//2,PS[1]//2); gg=torch.from_numpy(gtl.astype(np.int64)); G.scatter_(1,gg.clamp_max(10)[:,None],1.0); G=G*(gg<11)[:,None]; P['gt']=G.half(); E.append(dict(gtl=gtl,k=k,t=t,clip=clip,P=P,ev=evs,st=st,pix=pix))
        set_stats(L,S)
    return m,L,S,E
DEF=dict(target=('s1',),lr=1e-3,passes=8,params='decoder',weights='cert',sharp=1.0,ema=0.0,wise=1.0,flip=False,wd=.01,opt='adamw',bal=0.0,aug=0.0,cosine=False,wmode='mean')
def target(P,c):
    vs=[P[n].float() for n in c['target']]
    if c['wmode']=='cert':
        w=[(1+(v*v.clamp_min(1e-8).log()).sum(1,keepdim=True)/np.log(11)).clamp_min(.02) for v in vs]
        t=sum(a*b for a,b in zip(w,vs))/sum(w)
    elif c['wmode']=='geo':
        t=sum(v.clamp_min(1e-6).log() for v in vs).div(len(vs)).softmax(1)
    else: t=sum(vs)/len(vs)
    if c['sharp']!=1: t=t.clamp_min(1e-8).pow(1/c['sharp']); t=t/t.sum(1,keepdim=True)
    return t
def train(m,ep,c):
    """returns dict of trained param values (deployed)."""
    torch.manual_seed(0)
    names={'decoder':None,'last':('bu_dec_l4','bu_br_l4'),'cls':('bu_dec_l4.merge_layer.3',),'norm':None}[c['params']]
    enc={id(p) for p in m.encoder.parameters()}
    ps=[(n,p) for n,p in m.named_parameters() if id(p) not in enc and (names is None or n.startswith(names))]
    if c['params']=='norm': ps=[(n,p) for n,p in ps if p.ndim==1]
    base={n:p.detach().clone() for n,p in ps}; mean={n:p.detach().clone() for n,p in ps}
    for _,p in ps: p.requires_grad_(True)
    opt=torch.optim.AdamW([p for _,p in ps],lr=c['lr'],weight_decay=c['wd'])
    T=target(ep['P'],c); cert=(1+(T*T.clamp_min(1e-8).log()).sum(1)/np.log(11)).clamp(0,1)
    cw=torch.ones(11)
    if c['bal']>0:
        fr=T.mean((0,2,3)); cw=(fr.clamp_min(1e-3))**(-c['bal']); cw=cw/(cw*fr).sum()
    with torch.no_grad():
        f0=[m.encode(x[None]) for x in ep['pix']]
        f1=[m.encode(x[None].flip(-1)) for x in ep['pix']] if c['flip'] else None
    N=len(f0); steps=c['passes']*N; i=0; g=np.random.default_rng(0)
    for _ in range(c['passes']):
        for j in range(N):
            if c['cosine']:
                for gr in opt.param_groups: gr['lr']=c['lr']*.5*(1+np.cos(np.pi*i/steps))
            fl=c['flip'] and g.random()<.5
            t=T[j:j+1].flip(-1) if fl else T[j:j+1]; w=cert[j:j+1].flip(-1) if fl else cert[j:j+1]
            if c['aug']:
                x=ep['pix'][j:j+1].flip(-1) if fl else ep['pix'][j:j+1]
                x=x*float(np.exp(g.normal(0,c['aug'])))+torch.from_numpy(g.normal(0,c['aug'],(1,3,1,1)).astype(np.float32))
                with torch.no_grad(): f=m.encode(x)
            else: f=(f1 if fl else f0)[j]
            lo=m.classify(m.decode(f))[:,:11]
            l=-(t*cw[None,:,None,None]*F.log_softmax(lo,1)).sum(1)
            l=(l*w).sum()/w.sum() if c['weights']=='cert' else l.mean()
            opt.zero_grad(set_to_none=True); l.backward(); opt.step(); i+=1
            if c['ema']:
                d=min(c['ema'],(i)/(i+9))
                for n,p in ps: mean[n].lerp_(p.detach(),1-d)
    out={n:(mean[n] if c['ema'] else p.detach().clone()) for n,p in ps}
    with torch.no_grad():
        for n,p in ps: p.requires_grad_(False); p.copy_(base[n])
    return base,out
def put(m,base,out,a):
    d=dict(m.named_parameters())
    with torch.no_grad():
        for n in base: d[n].copy_(base[n].lerp(out[n],a))
def evaluate(m,ep):
    c=np.zeros((11,11),int)
    for im,gt in ep['ev']: c+=conf(gt,predict(m,im))
    return c
def run(m,L,S,E,cfgs,tag,log=True):
    ref={};C={};t0=time.time()
    for ep in E:
        set_stats(L,ep['st'])
        if 'ref' not in ep: ep['ref']=evaluate(m,ep)
        ref[ep['k']]=ref.get(ep['k'],0)+ep['ref']
    tot0=sum(ref.values()); print(tag,f'no distillation all {miou(tot0):.1f} |',' '.join(f'{miou(ref[k]):.1f}' for k in ref),'|',' '.join(f'{x:.0f}' for x in iou(tot0)),flush=True)
    res={'none':{k:v.tolist() for k,v in ref.items()}}
    for name,over in cfgs.items():
        c={**DEF,**over}; wises=c['wise'] if isinstance(c['wise'],(list,tuple)) else [c['wise']]
        Cs={w:{} for w in wises}; t1=time.time()
        for ep in E:
            set_stats(L,ep['st']); base,out=train(m,ep,c)
            for w in wises:
                put(m,base,out,w); Cs[w][ep['k']]=Cs[w].get(ep['k'],0)+evaluate(m,ep)
            put(m,base,out,0.0)
        for w in wises:
            cc=Cs[w]; tot=sum(cc.values()); d=[miou(cc[k])-miou(ref[k]) for k in cc]
            print(f'{name:28s} w{w:.1f} all {miou(tot):.1f} ({miou(tot)-miou(tot0):+.1f}) drives {np.mean(d):+.1f}±{np.std(d):.1f}',' '.join(f'{x:+.1f}' for x in d),'|',' '.join(f'{x:+.0f}' for x in iou(tot)-iou(tot0)),f'{time.time()-t1:.0f}s',flush=True)
            res[f'{name}|w{w}']={k:v.tolist() for k,v in cc.items()}
            save(tag,res)
    set_stats(L,S)
