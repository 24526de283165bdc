from lab import *
# input restoration x share of statistics
TGT=np.array([.485,.456,.406])*255; TSD=np.array([.229,.224,.225])*255
def lum(x): return x.astype(np.float32).mean(2)
def gamma_fit(clip,target=.45,lo=.4,hi=1.0):
    """global gain+gamma: 99th percentile -> 1, then gamma such that the mean is target."""
    x=clip.astype(np.float32); p1,p99=np.percentile(x,[.5,99.5]); return p1,p99
def levels(clip,gamma=True,target=.42):
    x=clip.astype(np.float32)
    # percentiles of lightly blurred image (noise out)
    b=np.stack([cv2.GaussianBlur(f,(0,0),1.5) for f in x]); a,z=np.percentile(b,[.5,99.5]); g=1.0
    if gamma:
        m=np.clip((b-a)/(z-a),1e-3,1); gs=np.linspace(.35,1.4,43); g=gs[np.argmin([abs((m**q).mean()-target) for q in gs])]
    return lambda im:(np.clip((im.astype(np.float32)-a)/(z-a),0,1)**g*255).astype(np.uint8)
def chan(clip):
    b=np.stack([cv2.GaussianBlur(f.astype(np.float32),(0,0),1.) for f in clip]); mu=b.mean((0,1,2)); sd=b.std((0,1,2))
    return lambda im:np.clip((im.astype(np.float32)-mu)/sd.mean()*TSD.mean()*1.1+TGT*.8,0,255).astype(np.uint8)
def clahe(im,c=2.0):
    l=cv2.cvtColor(im,cv2.COLOR_RGB2LAB); l[...,0]=cv2.createCLAHE(c,(4,4)).apply(l[...,0]); return cv2.cvtColor(l,cv2.COLOR_LAB2RGB)
G=lambda s:(lambda im:cv2.GaussianBlur(im,(0,0),s))
def gauss_first(s,f): return lambda im:f(cv2.GaussianBlur(im,(0,0),s))
bil=lambda im:cv2.bilateralFilter(im,7,75,3)
nlm=lambda im:cv2.fastNlMeansDenoisingColored(im,None,12,12,5,11)
def options(clip):
    lv=levels(clip); ln=levels(clip,False); 
    gl=levels(np.stack([G(1.2)(x) for x in clip]))
    return {'none':lambda im:im,'levels+gamma':lv,'levels':ln,'blur.8':G(.8),'blur1.2':G(1.2),'blur1.8':G(1.8),'median5':lambda im:cv2.medianBlur(im,5),'bilateral':bil,'blur1.2+lv':lambda im:gl(G(1.2)(im)),'clahe':clahe,'bil+lv':lambda im:lv(bil(im)),'nlm':nlm,'nlm+lv':lambda im:lv(nlm(im))}
if __name__=='__main__':
  for mn in sys.argv[1].split(','):
    m=load_model(CITY if mn=='city' else CAMVID)
    for cond in sys.argv[2].split(','):
      t0=time.time(); C={}
      for k,t,ev in episodes(30,(1,4)):
        co=corruptor(cond,t); clip,_=pseudo(t,10); clip=np.stack([co(clip[i],i) for i in (0,4,9)])
        evs=[(co(image(e),100+j),labels(e)) for j,e in enumerate(ev)]
        for n,f in options(clip).items():
            if n.startswith('nlm') and cond=='clean': continue
            cl=np.stack([f(x) for x in clip]); L,S,T=bn_stats(m,m.preprocess(cl,PS,CPU)); fe=[f(im) for im,_ in evs]
            for sh in (0,.3,.6):
                set_stats(L,lerp(S,T,sh))
                for im,(_,gt) in zip(fe,evs): C[n,sh,k]=C.get((n,sh,k),0)+conf(gt,predict(m,im))
            set_stats(L,S)
      for n in dict.fromkeys(a for a,_,_ in C):
        print(mn,cond,f'{n:14s}',' '.join(f'{sh}:{miou(sum(C[n,sh,k] for k in DR)):.1f}' for sh in (0,.3,.6)),f'{time.time()-t0:.0f}s',flush=True)
      save(f'restore_{mn}_{cond}',{'|'.join(map(str,a)):c.tolist() for a,c in C.items()})
