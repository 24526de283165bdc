from smooth import *
mn,cond,share=sys.argv[1],sys.argv[2],float(sys.argv[3]); t0=time.time()
m,eps=cache(mn,cond,share,step=int(sys.argv[4])); print('cached',len(eps),f'{time.time()-t0:.0f}s',flush=True)
cfg={'none':dict(s=0),'.7':{},'.5':dict(s=.5),'.8':dict(s=.8),'.7 cub':dict(interp='cub'),'.7 halfm':dict(flow='halfm'),'.7 full':dict(flow='full',full=True),'.7 full cub':dict(flow='full',full=True,interp='cub'),
'.7 logit':dict(space='l'),'.7 photo20':dict(photo=20),'.7 photo10':dict(photo=10),'.7 dis.5':dict(dis=.5),'.7 dis1':dict(dis=1.),'.7 thin.5':dict(thin=.5),'.7 thin1':dict(thin=1.),'.7 conf1':dict(conf_k=1.),'.7 conf2':dict(conf_k=2.),'.8 dis1':dict(s=.8,dis=1.),'.8 thin.5':dict(s=.8,thin=.5),'.8 cub':dict(s=.8,interp='cub'),'.85 logit':dict(s=.85,space='l')}
res={}
for n,c in cfg.items():
    t1=time.time(); C,v=evaluate(m,eps,**c); tot=sum(C.values()); res[n]=dict(C={k:x.tolist() for k,x in C.items()},vc=v)
    if n=='none': r0=tot
    print(f'{n:14s} mIoU {miou(tot):.2f} VC8 {v:.2f} |',' '.join(f'{x:.0f}' for x in iou(tot)),'|',' '.join(f'{x:+.1f}' for x in iou(tot)-iou(r0)),f'{time.time()-t1:.0f}s',flush=True)
    save(f's1_{mn}_{cond}',res)
