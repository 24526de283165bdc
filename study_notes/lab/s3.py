from smooth import *
H=dict(flow='halfm')
for a in sys.argv[1:]:
    mn,cond,share,step=a.split(','); m,eps=cache(mn,cond,float(share),step=int(step)); res={}
    cfg={'none':dict(s=0),'.7':{},'m .7':H}
    for s,ph in ((.8,12),(.8,20),(.9,12),(.9,20)): cfg[f'm {s} photo{ph}']=dict(H,s=s,photo=ph)
    for s in (.7,.8,.85,.9):
        for k in (-4,-6,-8): cfg[f'm {s} auto{k}']=dict(H,s=s,auto=k)
    for n,c in cfg.items():
        C,v=evaluate(m,eps,**c); tot=sum(C.values()); res[n]=dict(C={k:x.tolist() for k,x in C.items()},vc=v)
        if n=='none': r0=tot
        print(a,f'{n:16s} mIoU {miou(tot):.2f} VC8 {v:.2f} |',' '.join(f'{x:+.1f}' for x in iou(tot)-iou(r0)),flush=True)
    save(f's3_{mn}_{cond}',res)
