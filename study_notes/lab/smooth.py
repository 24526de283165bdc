from lab import *
from ditta_core.flow import FlowEstimator, forward_backward_consistent, warp, positions
from ditta_core.metrics import VideoConsistency
FG=[2,6,8,9,10]
def layered(i,n=12,seed=0,noise=2.0,parallax=1.7,rate=1.5):
    """Two-layer pseudo-video: thin and moving classes in front of an inpainted background; exact labels."""
    im=image(i); lb=labels(i); h,w=PS; g=np.random.default_rng(7000+i+seed)
    fg=np.isin(lb,FG).astype(np.uint8); big=cv2.dilate(fg,np.ones((5,5),np.uint8))
    bg=cv2.inpaint(im,big,5,cv2.INPAINT_TELEA)
    # background labels under fg: nearest non-fg label
    d,ix=cv2.distanceTransformWithLabels(big,cv2.DIST_L2,5,labelType=cv2.DIST_LABEL_PIXEL)
    src=np.zeros(ix.max()+1,np.uint8); src[ix[big==0]]=lb[big==0]; bl=np.where(big>0,src[ix],lb)
    Mb=motion(i+seed,n,rate); base=Mb[0]; X=[];Y=[]
    soft=cv2.GaussianBlur(fg.astype(np.float32),(3,3),.6)[...,None]
    for M in Mb:
        Mf=M.copy(); Mf[:,2]=base[:,2]+(M[:,2]-base[:,2])*parallax
        wa=lambda a,A,fl=cv2.INTER_CUBIC,bv=None: cv2.warpAffine(a,A,(w,h),flags=fl|cv2.WARP_INVERSE_MAP,borderMode=cv2.BORDER_REFLECT_101)
        al=np.clip(wa(soft,Mf,cv2.INTER_LINEAR),0,1)[...,None]; f=wa(bg,M).astype(np.float32)*(1-al)+wa(im,Mf).astype(np.float32)*al
        f=f*(1+g.normal(0,.01))+g.normal(0,noise,f.shape)
        m=wa(fg,Mf,cv2.INTER_NEAREST)>0
        X.append(np.clip(f,0,255).astype(np.uint8)); Y.append(np.where(m,wa(lb,Mf,cv2.INTER_NEAREST),wa(bl,M,cv2.INTER_NEAREST)))
    return np.stack(X),np.stack(Y)
def warp_p(p,flow,interp=cv2.INTER_LINEAR):
    pl=positions(flow); a,b=cv2.split(pl)
    return np.stack([cv2.remap(np.ascontiguousarray(c),a,b,interp,borderMode=cv2.BORDER_REPLICATE) for c in p])
def cache(mn,cond,share,step=30,n=12,**kw):
    m=load_model(CITY if mn=='city' else CAMVID); out=[]
    for k,t,ev in episodes(step):
        X,Y=layered(t,n,**kw); co=corruptor(cond,t); Z=np.stack([co(x,i) for i,x in enumerate(X)])
        L,S,T=bn_stats(m,m.preprocess(Z[[0,5,9]],PS,CPU)); set_stats(L,lerp(S,T,share))
        P=np.stack([logits(m,z[None],PS).softmax(1)[0,:11].numpy() for z in Z]); set_stats(L,S)
        est={}; fl={}; V=None
        h,w=P.shape[-2:]
        for name,preset,size in (('half','fast',(h,w)),('full','fast',PS),('halfm','medium',(h,w))):
            fe=FlowEstimator(preset,0); ims=[fe.prepare(np.asarray(cv2.resize(z,size[::-1],interpolation=cv2.INTER_AREA),np.uint8) if size!=PS else z) for z in Z]
            fl[name]=[(None,None)]+[((b:=fe.flow(ims[i-1],ims[i])),forward_backward_consistent(b,fe.flow(ims[i],ims[i-1]))) for i in range(1,n)]
            est[name]=ims
        out.append(dict(k=k,t=t,Z=Z,Y=Y,P=P,fl=fl,ims=est))
    return m,out
def up(m,p): return m.enlarge_logits(torch.from_numpy(p)[None],PS)[0]
def entropy_conf(p): return 1+(p*np.log(np.maximum(p,1e-8))).sum(0)/np.log(len(p))
def smooth_seq(m,ep,s=.7,flow='half',interp='lin',gate='fb',space='p',full=False,conf_k=0.0,photo=0.0,dis=0.0,power=0.0,mem='rec',spread=0.0,thin=0.0,auto=0.0,hyst=0.0,hg=True,pk=3):
    """yield probabilities [C,H,W] full size for each frame."""
    P=ep['P']; prev=None; pl=None; I={'lin':cv2.INTER_LINEAR,'cub':cv2.INTER_CUBIC,'lan':cv2.INTER_LANCZOS4}[interp]
    for i in range(len(P)):
        p=P[i] if not full else up(m,P[i]).numpy()
        if space=='l': p=np.log(np.maximum(p,1e-4))
        if prev is not None and s>0:
            f,ok=ep['fl'][flow][i]; c=warp_p(prev,f,I)
            if interp!='lin' and space=='p': c=np.maximum(c,0); c/=np.maximum(c.sum(0),1e-6)
            sh=s*ok.astype(np.float32)
            if auto:
                a=ep['ims'][flow][i].astype(np.float32); b=cv2.remap(ep['ims'][flow][i-1],*cv2.split(positions(f)),cv2.INTER_LINEAR,borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
                d=np.abs(cv2.blur(a-b,(pk,pk))) if auto<0 else cv2.blur(np.abs(a-b),(pk,pk)); g_=np.exp(-(d/(abs(auto)*np.median(d)+1.))**2); sh=sh*g_
            if photo:
                a=ep['ims'][flow][i].astype(np.float32); b=cv2.remap(ep['ims'][flow][i-1],*cv2.split(positions(f)),cv2.INTER_LINEAR,borderMode=cv2.BORDER_REPLICATE).astype(np.float32)
                d=cv2.blur(np.abs(a-b),(3,3)); sh=sh*np.exp(-(d/photo)**2)
            pp,cc=(p,c) if space=='p' else (np.exp(p),np.exp(c))
            if dis:   # current confident and disagrees with the carried one
                w=pp.max(0)*(pp.argmax(0)!=cc.argmax(0)); sh=sh*(1-dis*w)
            if conf_k:  # weights by certainty of both
                a,b=np.maximum(entropy_conf(pp/pp.sum(0)),.02)**conf_k,np.maximum(entropy_conf(cc/cc.sum(0)),.02)**conf_k
                sh=sh*b/((1-sh)*a+sh*b+1e-9)
            if thin:  # total variation distance between the two gates the share
                tv=.5*np.abs(pp-cc).sum(0); sh=sh*(1-thin*tv)
            p=p+(c-p)*sh
        q=p if space=='p' else np.exp(p)
        if hyst:
            if prev is not None:
                pq=positions(ep['fl'][flow][i][0]); y,x=np.rint(pq[...,1]).astype(int).clip(0,q.shape[1]-1),np.rint(pq[...,0]).astype(int).clip(0,q.shape[2]-1)
                c=pl[y,x]; q=q.copy(); np.put_along_axis(q,c[None],np.take_along_axis(q,c[None],0)+hyst*(sh/s)[None],0)
            pl=q.argmax(0)
        prev=p
        yield q if full else up(m,q).numpy()
def evaluate(m,eps,**kw):
    C={}; vc=[];fc=[0,0]
    for ep in eps:
        v=VideoConsistency((8,)); last=None
        for i,q in enumerate(smooth_seq(m,ep,**kw)):
            a=q.argmax(0); y=ep['Y'][i]; y=np.where(y<11,y,255).astype(np.uint8)
            if i>=3: C[ep['k']]=C.get(ep['k'],0)+conf(y,a); v.update(y,a)
        vc+=v.scores[8]
    return C,float(np.mean(vc))*100
