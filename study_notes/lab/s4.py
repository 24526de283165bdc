from smooth import *
def run4(m,ep,s,k,flow,gres,full):
    P=ep['P']; prev=None; h,w=P.shape[-2:]
    for i in range(len(P)):
        p=up(m,P[i]).numpy() if full else P[i]
        if prev is not None:
            ff,okf=ep['fl']['fullm'][i]; fh,okh=ep['fl']['halfm'][i]
            if flow=='full':
                f,ok=(ff,okf) if full else (np.ascontiguousarray(cv2.resize(ff,(w,h),interpolation=cv2.INTER_AREA)*.5),cv2.resize(okf.astype(np.float32),(w,h),interpolation=cv2.INTER_AREA))
            else: f,ok=fh,okh
            if gres=='full' and flow=='full':
                a,b,g=ep['ims']['full'][i],ep['ims']['full'][i-1],ff
            else: a,b,g=ep['ims']['halfm'][i],ep['ims']['halfm'][i-1],(f if f.shape[:2]==(h,w) else fh)
            c=cv2.remap(b,*cv2.split(positions(g)),cv2.INTER_LINEAR,borderMode=cv2.BORDER_REPLICATE)
            r=np.abs(cv2.blur(a.astype(np.float32)-c,(3,3))); t=np.exp(-(r/(k*np.median(r)+1))**2)
            if gres=='full' and flow=='full' and not full: t=cv2.erode(t,np.ones((2,2)))[::2,::2]
            if full and t.shape!=p.shape[1:]: t=cv2.resize(t,p.shape[:0:-1])
            sh=s*ok*t; cc=warp_p(prev,f); p=p+(cc-p)*sh
        prev=p; yield p if full else up(m,p).numpy()
for a in sys.argv[1:]:
    mn,cond,share,step=a.split(','); m,eps=cache(mn,cond,float(share),step=int(step)); res={}
    for ep in eps:
        fe=FlowEstimator('medium',0); ims=ep['ims']['full']; ep['fl']['fullm']=[(None,None)]+[((b:=fe.flow(ims[i-1],ims[i])),forward_backward_consistent(b,fe.flow(ims[i],ims[i-1]))) for i in range(1,len(ims))]
    cfg={'ref half .9 k6':(.9,6,'half','half',False),'half .95 k6':(.95,6,'half','half',False),'fullflow .9':(.9,6,'full','half',False),'fullflow+gate .9':(.9,6,'full','full',False),'all full .9':(.9,6,'full','full',True),'all full .9 k8':(.9,8,'full','full',True),'all full .95 k6':(.95,6,'full','full',True),'all full .85':(.85,6,'full','full',True),'fullprob halfflow? n/a':None}
    r0=None
    for n,c in cfg.items():
        if c is None: continue
        C={}; vc=[]; t0=time.time()
        for ep in eps:
            v=VideoConsistency((8,))
            for i,q in enumerate(run4(m,ep,*c)):
                y=np.where(ep['Y'][i]<11,ep['Y'][i],255).astype(np.uint8); b=q.argmax(0)
                if i>=3: C[ep['k']]=C.get(ep['k'],0)+conf(y,b); v.update(y,b)
            vc+=v.scores[8]
        tot=sum(C.values()); r0=tot if r0 is None else r0; res[n]=dict(C={k:x.tolist() for k,x in C.items()},vc=float(np.mean(vc))*100)
        print(a,f'{n:18s} mIoU {miou(tot):.2f} VC8 {res[n]["vc"]:.2f} |',' '.join(f'{x:+.1f}' for x in iou(tot)-iou(r0)),f'{time.time()-t0:.0f}s',flush=True); save(f's4_{mn}',res)
