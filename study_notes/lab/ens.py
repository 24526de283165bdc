from lab import *
# ensembles over shares and scales on eval frames
SH=(0,.3,.7); SC=((1,0),(1,1),(1.25,0))
combos={}
for sh in SH:
    combos[f's{sh}']=[(sh,1,0)]; combos[f's{sh} f']=[(sh,1,0),(sh,1,1)]; combos[f's{sh} x1.25']=[(sh,1.25,0)]; combos[f's{sh} f,1.25']=[(sh,*v) for v in SC]
combos['s0,.3']=[(0,1,0),(.3,1,0)]; combos['s0,.3,.7']=[(s,1,0) for s in SH]; combos['s.3,.7']=[(.3,1,0),(.7,1,0)]
combos['s0,.3,.7 f']=[(s,1,f) for s in SH for f in (0,1)]
combos['s0,.3,.7 f,1.25']=[(s,*v) for s in SH for v in SC]
combos['s0,.3,.7 1.25']=[(s,1.25,0) for s in SH]
C={}
for mn in sys.argv[1].split(','):
  m=load_model(CITY if mn=='city' else CAMVID)
  for cond in sys.argv[2].split(','):
    t0=time.time(); C={}
    for k,t,ev in episodes(30,(1,3,5)):
        co=corruptor(cond,t); clip,_=pseudo(t,10); clip=np.stack([co(x,i) for i,x in enumerate(clip)])
        L,S,T=bn_stats(m,m.preprocess(clip[[0,4,9]],PS,CPU))
        for j,e in enumerate(ev):
            im=co(image(e),100+j); gt=labels(e); P={}
            for sh in SH:
                set_stats(L,lerp(S,T,sh))
                for s,f in SC:
                    size=tuple(int(round(x*s/16))*16 for x in (368,480))
                    x=np.ascontiguousarray(im[:,::-1] if f else im)[None]
                    p=m.enlarge_logits(logits(m,x,size),(360,480)).softmax(1)[0]
                    P[sh,s,f]=p.flip(-1) if f else p
            set_stats(L,S)
            for n,c in combos.items():
                ps=[P[v] for v in c]
                C.setdefault((n,k),np.zeros((11,11),int)); C[n,k]+=conf(gt,sum(ps)[:11].argmax(0).numpy())
                if len(ps)>1 and len({v[0] for v in c})>1:
                    w=[(1+(v*v.clamp_min(1e-8).log()).sum(0,keepdim=True).mean()/np.log(11))**2 for v in ps]
                    C.setdefault((n+' W',k),np.zeros((11,11),int)); C[n+' W',k]+=conf(gt,sum(a*b for a,b in zip(w,ps))[:11].argmax(0).numpy())
    for n in dict.fromkeys(n for n,_ in C):
        per=[miou(C[n,k]) for k in DR]; tot=sum(C[n,k] for k in DR)
        print(mn,cond,f'{n:18s} all {miou(tot):.1f} drives',' '.join(f'{x:.1f}' for x in per),'|',' '.join(f'{x:.0f}' for x in iou(tot)),f'{time.time()-t0:.0f}s',flush=True)
    save(f'ens_{mn}_{cond}',{f'{a}|{b}':C[a,b].tolist() for a,b in C})
