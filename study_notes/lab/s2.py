from smooth import *
mn,cond,share=sys.argv[1],sys.argv[2],float(sys.argv[3]); t0=time.time()
m,eps=cache(mn,cond,share,step=int(sys.argv[4])); print('cached',len(eps),f'{time.time()-t0:.0f}s',flush=True)
H=dict(flow='halfm')
cfg={'none':dict(s=0),'.7':{},'m .7':H}
for s in (.7,.8,.9):
    for ph in (8,12,20): cfg[f'm {s} photo{ph}']=dict(H,s=s,photo=ph)
for s in (.7,.85):
    for a in (2,4): cfg[f'm {s} auto{a}']=dict(H,s=s,auto=a)
    cfg[f'm {s} auto-4']=dict(H,s=s,auto=-4); cfg[f'm {s} auto4 k5']=dict(H,s=s,auto=4,pk=5)
for h in (.1,.2,.3): cfg[f'm .7 auto4 hyst{h}']=dict(H,auto=4,hyst=h); 
cfg['m .7 hyst.2']=dict(H,hyst=.2); cfg['m .5 auto4 hyst.2']=dict(H,s=.5,auto=4,hyst=.2); cfg['m .5 auto4 hyst.4']=dict(H,s=.5,auto=4,hyst=.4); cfg['m .3 auto4 hyst.4']=dict(H,s=.3,auto=4,hyst=.4)
cfg['f .7 auto4']=dict(auto=4); cfg['m .7 auto4 dis.5']=dict(H,auto=4,dis=.5)
res={}
for n,c in cfg.items():
    t1=time.time(); C,v=evaluate(m,eps,**c); tot=sum(C.values()); res[n]=dict(C={k:x.tolist() for k,x in C.items()},vc=v)
    if n=='none': r0=tot
    print(f'{n:20s} mIoU {miou(tot):.2f} VC8 {v:.2f} |',' '.join(f'{x:+.1f}' for x in iou(tot)-iou(r0)),f'{time.time()-t1:.0f}s',flush=True)
    save(f's2_{mn}_{cond}',res)
